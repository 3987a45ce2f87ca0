"""A teacher's image tower from the stage whose grid is the latent's: what a latent tower goes on.

A way to cut a tower is one function of `LAYOUTS`. Every cut is held against the whole tower on one
image when it is made, so that a layout that only looks known is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipguide.clip.backbones import IMAGE_POOLINGS, LEVELS
from clipguide.clip.dual_encoder import DualEncoder
from clipguide.clip.latent_vit import resized_positions
from clipguide.clip.open_clip_model import OpenClipModel
from clipguide.clip.protocol import ClipModel
from clipguide.clip.transformers_clip import TransformersClip

PATCHES = "after the patches"
_CLOSE = 1e-4  # of unit vectors; float32 kernels differ by far less, a skipped part by far more


class TeacherTail(nn.Module):
    """The blocks of an image tower from its entry on, and what stands before and after them.

    Attributes:
        blocks: run one after the other.
        channels, grid: of the features that enter: (B, channels, *grid) at the teacher's own size.
        widths: channels of the state after each block.
    """

    channels: int
    grid: tuple[int, int]
    widths: tuple[int, ...]

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def enter(self, features: Tensor) -> Tensor:
        """Features (B, channels, h, w) -> the state that the first block takes."""
        return features

    def step(self, block: nn.Module, state: Tensor) -> Tensor:
        """The state after a block."""
        return block(state)

    def leave(self, states: Sequence[Tensor]) -> Tensor:
        """The state after each block -> (B, D), not of unit length."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, h, w) -> (B, D), as the teacher goes on from them."""
        state, states = self.enter(features), list[Tensor]()
        for block in self.blocks:
            state = self.step(block, state)
            states.append(state)
        return self.leave(states)


class ConvTail(TeacherTail):
    """Of a CNN of transformers: blocks, pooling over places, head."""

    def __init__(self, blocks: Sequence[nn.Module], pooling: str, head: nn.Module) -> None:
        super().__init__(blocks)
        self._pooling = pooling
        self.head = head

    def leave(self, states: Sequence[Tensor]) -> Tensor:
        return self.head(IMAGE_POOLINGS[self._pooling](states))


class VitTail(TeacherTail):
    """Of a CLIP's vision transformer: class token, positions, blocks, projection of the class.

    Args:
        blocks: its layers.
        embeddings: the class token (D,) and the positions (1 + grid cells, D).
        norms: before the first block, and of the class token after the last one.
        projection: (D, embed_dim).
    """

    def __init__(
        self, blocks: Sequence[nn.Module], embeddings: tuple[Tensor, Tensor],
        norms: tuple[nn.Module, nn.Module], projection: Tensor, grid: tuple[int, int],
    ) -> None:  # fmt: skip
        super().__init__(blocks)
        self.summary, self.positions = (nn.Parameter(v.detach().clone()) for v in embeddings)
        self.first_norm, self.last_norm = norms
        self.projection = nn.Parameter(projection.detach().clone())
        self.grid, self.channels = grid, len(self.summary)
        self.widths = (self.channels,) * len(self.blocks)

    def enter(self, features: Tensor) -> Tensor:
        places = self.positions[1:].T.unflatten(1, self.grid).unsqueeze(0)  # (1, D, *grid)
        seen = features + resized_positions(places, features.shape[-2:])
        first = (self.summary + self.positions[0]).expand(len(seen), 1, -1)
        return self.first_norm(torch.cat([first, seen.flatten(2).mT], dim=1))

    def step(self, block: nn.Module, state: Tensor) -> Tensor:
        wanted = inspect.signature(block.forward).parameters
        masks = {name: None for name in _MASKS if name in wanted}
        output: Any = block(state, **masks)
        return output[0] if isinstance(output, tuple) else output

    def leave(self, states: Sequence[Tensor]) -> Tensor:
        return self.last_norm(states[-1][:, 0]) @ self.projection


_MASKS = ("attention_mask", "causal_attention_mask", "attn_mask")  # transformers 4 and 5, open_clip


@dataclass(frozen=True)
class Cut:
    """A teacher's image tower, cut.

    Attributes:
        features: normalised pixels (B, 3, H, W) -> what enters the tail, (B, channels, h, w).
        tail: the rest, a copy in evaluation mode.
        mark: where it is cut, for fingerprints.
    """

    features: Callable[[Tensor], Tensor]
    tail: TeacherTail
    mark: str


def cut(teacher: ClipModel, cells: int) -> Cut:
    """Cut a teacher's image tower where its grid has at most `cells` places a side.

    **Cost**: two passes of one image.

    Raises:
        ValueError: an image tower of another layout (the known ones are listed).
    """
    tower = _image_tower(teacher)
    kind = (type(teacher).__name__, type(tower).__name__)
    if kind not in LAYOUTS:
        known = ", ".join(f"{inner} of a {outer}" for outer, inner in LAYOUTS)
        raise ValueError(
            f"{teacher.name}: got a {kind[1]} of a {kind[0]} as teacher, expected one of: {known}"
        )
    with torch.no_grad():
        found = LAYOUTS[kind](cast(Any, teacher), cast(Any, tower), cells)
        _check(teacher, found)
    return found


def _image_tower(teacher: ClipModel) -> nn.Module:
    if isinstance(teacher, DualEncoder):
        return teacher.image.model
    module = cast(Any, teacher.module)
    for name in ("vision_model", "visual"):
        if hasattr(module, name):
            return getattr(module, name)
    return module


def _pixels(teacher: ClipModel) -> Tensor:
    """A normalised image of noise, (1, 3, H, W)."""
    size = teacher.preprocess.crop or teacher.preprocess.size
    noise = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(0))
    return teacher.preprocess.normalize(noise.to(teacher.device))


def _check(teacher: ClipModel, found: Cut) -> None:
    pixels = _pixels(teacher)
    whole = teacher.encode_image(pixels)
    vectors = functional.normalize(found.tail(found.features(pixels)), dim=-1)
    if not torch.allclose(whole, vectors, rtol=0, atol=_CLOSE):
        raise ValueError(
            f"{teacher.name}: got an image tower with parts beside its blocks, expected a plain one"
        )


def _cnn(teacher: DualEncoder, parts: list[nn.Module], ends: list[int], cells: int) -> Cut:
    """`parts` from pixels to the last state; `ends`: those whose state the pooling may read."""
    state, states = _pixels(teacher), list[Tensor]()
    for part in parts:
        state = part(state)
        states.append(state)
    first = next((i for i, state in enumerate(states) if max(state.shape[-2:]) <= cells), -1)
    pooling = teacher.image.pooling
    reads = ends[-LEVELS:] if pooling == "levels" else ends[-1:]
    if not 0 <= first < reads[0]:
        raise ValueError(
            f"{teacher.name}: got pooling {pooling!r} that reads states before the grid of "
            f"{cells} latent cells, expected all of them after it"
        )
    rest = [_folded(deepcopy(part)) for part in parts[first + 1 :]]
    tail = ConvTail(rest, pooling, deepcopy(teacher.image_head))
    _, tail.channels, rows, columns = states[first].shape
    tail.grid = rows, columns
    tail.widths = tuple(state.shape[1] for state in states[first + 1 :])
    return Cut(nn.Sequential(*parts[: first + 1]), tail, f"after block {first}")


def _folded(block: nn.Module) -> nn.Module:
    """The same function of its input with each batch normalisation inside its convolution.

    Its statistics are the teacher's for good, so that it is a factor and an offset: a quarter of
    the time of a step goes without them.
    """
    for layer in [*block.modules()]:
        norm, conv = (getattr(layer, name, None) for name in ("normalization", "convolution"))
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
            continue
        layer.convolution = fuse_conv_bn_eval(conv.eval(), norm.eval())
        layer.normalization = nn.Identity()
    return block


def _mobilenet(teacher: DualEncoder, tower: Any, cells: int) -> Cut:
    parts = [tower.conv_stem, *tower.layer, tower.conv_1x1]
    return _cnn(teacher, parts, [*range(1, len(parts))], cells)


def _resnet(teacher: DualEncoder, tower: Any, cells: int) -> Cut:
    if teacher.image.pooling == "levels":
        raise ValueError(
            f"{teacher.name}: got pooling 'levels' of a ResNetModel, whose first states are finer "
            "than latents, expected 'mean'"
        )
    parts = [tower.embedder, *(layer for stage in tower.encoder.stages for layer in stage.layers)]
    return _cnn(teacher, parts, [len(parts) - 1], cells)


def clip_vit_tail(model: Any) -> VitTail:
    """Of transformers' `CLIPModel` or `CLIPVisionModelWithProjection`."""
    tower, embeddings = model.vision_model, model.vision_model.embeddings
    return VitTail(
        deepcopy([*tower.encoder.layers]),
        (embeddings.class_embedding, embeddings.position_embedding.weight),
        (deepcopy(tower.pre_layrnorm), deepcopy(tower.post_layernorm)),
        model.visual_projection.weight.T,
        (embeddings.image_size // embeddings.patch_size,) * 2,
    )


def _clip_vit(teacher: TransformersClip, tower: Any, cells: int) -> Cut:
    return Cut(tower.embeddings.patch_embedding, clip_vit_tail(teacher.module), PATCHES)


def _open_clip_vit(teacher: OpenClipModel, tower: Any, cells: int) -> Cut:
    if tower.attn_pool is not None or tower.pool_type != "tok" or tower.proj is None:
        raise ValueError(
            f"{teacher.name}: got a VisionTransformer that pools by {tower.pool_type!r}, expected "
            "its class token, projected"
        )
    tail = VitTail(
        deepcopy([*tower.transformer.resblocks]),
        (tower.class_embedding, tower.positional_embedding),
        (deepcopy(tower.ln_pre), deepcopy(tower.ln_post)),
        tower.proj,
        tuple(tower.grid_size),
    )
    return Cut(tower.conv1, tail, PATCHES)


Layout = Callable[[Any, Any, int], Cut]  # (teacher, its image tower, latent cells a side)

LAYOUTS: dict[tuple[str, str], Layout] = {
    ("DualEncoder", "MobileNetV2Model"): _mobilenet,
    ("DualEncoder", "ResNetModel"): _resnet,
    ("TransformersClip", "CLIPVisionModel"): _clip_vit,
    ("TransformersClip", "CLIPVisionTransformer"): _clip_vit,  # its name in transformers 4
    ("OpenClipModel", "VisionTransformer"): _open_clip_vit,
}
"""(kind of teacher, kind of its image tower) -> how it is cut."""
