"""States of frozen blocks kept, live blocks run from them: the numbers of the whole backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from safetensors.torch import load_file
from tiny_backbones import tiny_image, tiny_text
from tiny_training import toy_run
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    MobileNetV2Config,
    MobileNetV2Model,
    MPNetConfig,
    MPNetModel,
    ViTConfig,
    ViTModel,
)

from clipguide.clip.backbones import ImageBackbone, TextBackbone
from clipguide.clip.feature_cache import FeatureCache
from clipguide.training.batches import live_images, live_texts
from clipguide.training.clip_run import ClipRun
from clipguide.training.frozen_prefix import FrozenPrefix
from clipguide.training.run_files import STATE
from clipguide.training.unfreeze import blocks

SMALL = {
    "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
}  # fmt: skip
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def convnext() -> nn.Module:
    return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 12, 12], depths=[1, 1, 1, 1])).eval()


def mobilenet() -> nn.Module:
    """Its batch normalisation knows other statistics than those of a batch."""
    model = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.2)).eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return model


def vit() -> nn.Module:
    return ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL)).eval()


def mpnet() -> nn.Module:
    return MPNetModel(MPNetConfig(vocab_size=64, **SMALL)).eval()


def gradients(module: nn.Module, value: Tensor) -> list[Tensor]:
    trained = [p for p in module.parameters() if p.requires_grad]
    noise = torch.Generator().manual_seed(5)
    weights = torch.randn(value.shape, generator=noise)
    return [*torch.autograd.grad((value * weights).sum(), trained, allow_unused=False)]


def freeze(backbone: nn.Module, live: int) -> None:
    backbone.requires_grad_(False)
    for part in blocks(backbone)[-live:]:
        part.requires_grad_(True)


@pytest.mark.parametrize("live", [1, 2])
@pytest.mark.parametrize("make", [tiny_image, mobilenet, vit])
def test_an_image_tail_is_the_whole_backbone(make: Callable[[], nn.Module], live: int) -> None:
    torch.manual_seed(3)
    backbone = make()
    freeze(backbone, live)
    tower = ImageBackbone(backbone).eval()
    pixels = torch.randn(3, 3, 32, 32)
    prefix = FrozenPrefix(tower, live, (pixels[:2],))
    assert prefix.depth == len(blocks(backbone)) - live
    state = prefix.run(pixels)
    ran: list[nn.Module] = []
    stem = next(m for m in blocks(backbone)[0].modules() if isinstance(m, nn.Conv2d))
    handle = stem.register_forward_hook(lambda module, *_: ran.append(module))
    found = prefix.tail(state, state)
    assert not ran  # nothing of the frozen blocks is computed
    whole = tower(pixels)
    assert ran == [stem]  # and all is as it was afterwards
    handle.remove()
    assert torch.allclose(found, whole, atol=1e-6)
    pairs = zip(gradients(backbone, found), gradients(backbone, whole), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("pooling", ["mean", "levels"])
def test_a_tail_runs_the_blocks_whose_states_are_pooled(pooling: str) -> None:
    torch.manual_seed(3)
    tower = ImageBackbone(mobilenet(), pooling).eval()
    freeze(tower.model, 1)
    pixels = torch.randn(3, 3, 64, 64)
    prefix = FrozenPrefix(tower, 1, (pixels[:2],))
    assert prefix.depth == len(blocks(tower.model)) - (4 if pooling == "levels" else 1)
    state = prefix.run(pixels)
    assert torch.allclose(prefix.tail(state, state), tower(pixels), atol=1e-6)


def test_there_is_nothing_to_keep_where_the_pooling_reads_every_block() -> None:
    tower = TextBackbone(tiny_text(layers=2), "levels")
    assert FrozenPrefix(tower, 1, (torch.tensor([[2, 9, 3]]), torch.ones((1, 3)).long())).depth == 0


@pytest.mark.parametrize("pooling", ["cls", "mean", "last4", "levels"])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_text_tail_is_the_whole_backbone(kind: str, pooling: str) -> None:
    backbone = tiny_text(kind, layers=6)
    freeze(backbone, 1)
    tower = TextBackbone(backbone, pooling).eval()
    tokens = torch.tensor([[2, 9, 11, 7, 3], [2, 12, 3, 0, 0]])
    prefix = FrozenPrefix(tower, 1, (tokens, MASK))
    # of embeddings and six layers
    assert prefix.depth == {"cls": 6, "mean": 6, "last4": 4, "levels": 3}[pooling]
    state = prefix.run(tokens, MASK)
    found, whole = prefix.tail(state, MASK, MASK), tower(tokens, MASK)
    assert torch.allclose(found, whole, atol=1e-6)
    pairs = zip(gradients(backbone, found), gradients(backbone, whole), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)


def test_a_backbone_that_does_not_run_block_after_block_is_refused() -> None:
    class Across(nn.Module):
        """A block that looks past the one before it."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x)) + self.first(x))

    class Tower(nn.Module):
        pooling = "mean"

        def __init__(self) -> None:
            super().__init__()
            self.model = Across()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    with pytest.raises(ValueError, match="got a Across that does not run its blocks one"):
        FrozenPrefix(Tower(), 1, (torch.randn(2, 4),))


@pytest.mark.parametrize("make", [convnext, mpnet])
def test_other_families_are_equal_or_refused(make: Callable[[], nn.Module]) -> None:
    backbone = make()
    is_text = make is mpnet
    tower = TextBackbone(backbone, "mean") if is_text else ImageBackbone(backbone)
    tokens = torch.tensor([[0, 9, 11, 7, 2], [0, 12, 2, 1, 1]])
    inputs = (tokens, MASK) if is_text else (torch.randn(2, 3, 32, 32),)
    if make is mpnet:  # its last block in the list is the table of relative positions
        with pytest.raises(ValueError, match="does not run its blocks"):
            FrozenPrefix(tower, 1, inputs)
        return
    prefix = FrozenPrefix(tower, 1, inputs)
    state = prefix.run(*inputs)
    assert torch.allclose(prefix.tail(state, state), tower(*inputs), atol=1e-5)


# --- in a run ------------------------------------------------------------------------------------


def prepare(toys: Path, output: Path, **train: object) -> ClipRun:
    return toy_run(toys, output, **{"unfreeze_image": 1, "unfreeze_text": 1, "views": 2, **train})


def test_kept_states_give_the_rows_of_live_backbones(toys: Path, tmp_path: Path) -> None:
    run = prepare(toys, tmp_path, prefix_cache="float32")
    pairs, images, texts = run._splits["train"]
    places, views = torch.tensor([4, 0, 7]), torch.tensor([1, 0, 1])
    with torch.no_grad():
        for found, live in ((images, live_images(run.model, pairs.pictures, 0)),
                            (texts, live_texts(run.model, pairs.captions, 0))):  # fmt: skip
            assert torch.allclose(found(places, views), live(places, views), atol=1e-6)


@pytest.mark.parametrize("part", [0, 2])
def test_a_run_from_kept_states_ends_where_the_live_one_does(
    toys: Path, tmp_path: Path, part: int
) -> None:
    settings: dict[str, object] = {"hard_negatives": 1, "captions_per_image": 2, "part": part}
    for name in ("", "float32"):
        prepare(toys, tmp_path / f"{name}.", prefix_cache=name, **settings).train()
    live, kept = (load_file(tmp_path / f"{name}." / STATE) for name in ("", "float32"))
    assert live.keys() == kept.keys()
    moved = [name for name in live if name.startswith("parameter.")]
    assert any("image.model.encoder.stages.3" in name for name in moved)
    assert any("text.model.encoder.layer.1" in name for name in moved)
    # what is added to all keys alike has no gradient but rounding, which Adam makes large
    for name in (name for name in moved if not name.endswith("key.bias")):
        assert torch.allclose(live[name], kept[name], atol=2e-5), name


def test_statistics_of_batch_normalisation_stay(toys: Path, tmp_path: Path) -> None:
    run = prepare(toys, tmp_path, prefix_cache="float16")
    before = {name: value.clone() for name, value in run.model.named_buffers()}
    run.train()
    after = dict(run.model.named_buffers())
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_killed_run_goes_on_to_the_bit(toys: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, _steps: int, _loss: float) -> None:
        if step == 6:  # one after a checkpoint is written
            raise Stop

    prepare(toys, tmp_path / "whole", prefix_cache="float16").train()
    with pytest.raises(Stop):
        prepare(toys, tmp_path / "killed", prefix_cache="float16").train(on_step=stop)
    prepare(toys, tmp_path / "killed", prefix_cache="float16").train(resume=True)
    for name in (STATE, "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_states_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "f", torch.float16)
    with pytest.raises(ValueError, match=r"torch\.float16 cannot hold, expected finite"):
        cache.fill(["00" * 32], lambda places: {0: torch.tensor([1e6])})


def test_rows_of_different_lengths_come_back(tmp_path: Path) -> None:
    keys = [f"{number:064x}" for number in range(5)]
    rows = [torch.randn(number % 3 + 1, 4).half() for number in range(5)]
    cache = FeatureCache(tmp_path, "f", torch.float16)
    assert cache.fill(keys, lambda places: {place: rows[place] for place in places}, batch=2) == 5
    for again in (cache, FeatureCache(tmp_path, "f", torch.float16)):
        assert all(map(torch.equal, again.each(keys), rows))


def test_an_unknown_type_is_one_line(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    change = ("--set", f"output={tmp_path}", "--set", "train.prefix_cache=int8")
    outcome = cli("train", toys / "toy.toml", *change)
    assert outcome.code == 2
    assert "got train.prefix_cache 'int8', expected one of ['', 'float32'" in outcome.err


def test_settings_and_runs_of_the_former_key_go_on(toys: Path, tmp_path: Path) -> None:
    prepare(toys, tmp_path, trunk_cache="float16").train()
    written = tmp_path / "run.json"
    former = written.read_text().replace('"prefix_cache"', '"trunk_cache"')
    assert former.count("trunk_cache") == 1
    written.write_text(former)
    prepare(toys, tmp_path, prefix_cache="float16").train(resume=True)
