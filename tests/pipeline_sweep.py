"""`guide` and `search` over every image pipeline of diffusers that tiny components can be made for.

    python tests/pipeline_sweep.py [PART OF A NAME ...] > docs/pipelines.md

Components come from the families of tests/families, and go to every other class of the same kind
whose constructor takes them; arguments follow the signature of its call. A row says:

- `strength 0`, `left`: inside `guide(strength=0)`, and after it, the picture is the plain one;
- `x0 seen`: the last preview is the picture returned, up to this difference (1: black and white);
- `batch 1`, `batch 4`, `pruned`: the candidates of a search are `pipe(seed)`, up to as many of 255
  levels ("own": the preview is blended with the given picture afterwards).

Words in place of a number are the message of a refusal.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import conftest  # noqa: F401  one thread, offline
import diffusers
import torch
from families import diffusions, flows_packed, flows_plain, latent_unets, pixels, stable_diffusion_3
from families.latent_unets import PICTURE
from families.parts import Family
from families.registry import FAMILIES
from PIL import Image
from tiny_pipelines import ProjectionReward
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.search import Prune, search
from clipguide.seeds import make_generators

SEED, STEPS = 5, 3
WHITE = Image.new("L", PICTURE.size, 255)

# class name -> the family whose components it takes; the first that fits
KINDS: list[tuple[str, str]] = [
    (r"XL|Kolors", "StableDiffusionXLPipeline-base"),
    (r"StableDiffusion3|^SD3", "StableDiffusion3Pipeline"),
    (r"Unclip|UnCLIP", "StableUnCLIPPipeline"),
    (r"LatentConsistency", "LatentConsistencyModelPipeline"),
    (r"StableDiffusion|^Cycle|^Semantic|^PaintBy", "StableDiffusionPipeline-1.x"),
    (r"Flux2Klein", "Flux2KleinPipeline"),
    (r"Flux2", "Flux2Pipeline"),
    (r"Flux|^VisualCloze", "FluxPipeline"),
    (r"Chroma", "ChromaPipeline"),
    (r"QwenImage", "QwenImagePipeline"),
    (r"Sana", "SanaPipeline"),
    (r"PixArt", "PixArtSigmaPipeline"),
    (r"HunyuanDiT", "HunyuanDiTPipeline"),
    (r"CogView4", "CogView4Pipeline"),
    (r"Lumina2", "Lumina2Pipeline"),
    (r"ZImage", "ZImagePipeline"),
    (r"AuraFlow", "AuraFlowPipeline"),
    (r"KandinskyV22", "KandinskyV22Pipeline"),
    (r"^IF", "IFPipeline"),
]
BY_NAME = {str(family): family for family in FAMILIES}
_ = (diffusions, flows_packed, flows_plain, latent_unets, pixels, stable_diffusion_3)


def controlled(parts: dict[str, Any], kind: str) -> Any:
    """A ControlNet of the denoiser's own shape, its last layers random so that it is heard."""
    if "unet" in parts:
        net: Any = diffusers.ControlNetModel.from_unet(
            parts["unet"], conditioning_channels=3, conditioning_embedding_out_channels=(4, 8)
        )
    elif kind.startswith("StableDiffusion3"):
        net = diffusers.SD3ControlNetModel.from_transformer(parts["transformer"])
    elif kind.startswith("Flux"):
        net = diffusers.FluxControlNetModel.from_transformer(parts["transformer"], num_layers=1)
    else:
        raise NotImplementedError("no tiny ControlNet")
    return net.eval()


def adapter() -> Any:
    return diffusers.T2IAdapter(
        channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    ).eval()


def components(cls: type[Any], family: Family) -> dict[str, Any]:
    """What the constructor takes, from a family's pipeline, made anew, or None."""
    pool = family.build().components
    found: dict[str, Any] = {}
    for name, parameter in [*inspect.signature(cls.__init__).parameters.items()][1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if pool.get(name) is not None:
            found[name] = pool[name]
        elif name == "controlnet":
            found[name] = controlled(pool, str(family))
        elif name == "adapter":
            found[name] = adapter()
        elif name == "requires_safety_checker":
            found[name] = False
        elif parameter.default is parameter.empty:
            found[name] = None
    if "unet" in found and "Inpaint" not in cls.__name__ and "Pix2Pix" in cls.__name__:
        found["unet"] = latent_unets.unet(**(dict(found["unet"].config) | {"in_channels": 8}))
    return found


GIVEN: dict[str, Any] = {
    "prompt": "a fox",
    "image": PICTURE,
    "control_image": PICTURE,
    "mask_image": WHITE,
    "conditioning_image": PICTURE,
    "original_image": PICTURE,
    "height": 16,
    "width": 16,
    "max_sequence_length": 16,
    "clean_caption": False,
    "use_resolution_binning": False,
    "complex_human_instruction": None,
    "source_prompt": "a cat",
    "strength": 0.8,
}


def arguments(cls: type[Any], family: Family) -> dict[str, Any]:
    """Of one image, by the names that the call takes."""
    taken = inspect.signature(cls.__call__).parameters
    own = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in family.call(1).items()}
    call = {name: value for name, value in (GIVEN | own).items() if name in taken}
    if family.build().__class__.__name__ != cls.__name__ and "prompt_embeds" in call:
        call.pop("prompt", None)
    if "mask_image" in taken:
        call["strength"] = 1.0
    if "prompt" not in own:
        call.pop("prompt", None)
    if cls.__name__ == family.pipeline:
        call = own
    taken_steps = "num_inference_steps" in taken
    return {k: v for k, v in call.items() if k in taken or cls.__name__ == family.pipeline} | (
        {"num_inference_steps": STEPS} if taken_steps else {}
    )


def classes() -> Iterator[tuple[str, Family]]:
    """Every class with the family that its components come from."""
    for family in FAMILIES:
        yield family.pipeline, family
    done = {family.pipeline for family in FAMILIES}
    for name in sorted(dir(diffusers)):
        if not name.endswith("Pipeline") or name in done or re.match("Flax|Onnx|Auto", name):
            continue
        kind = next((family for pattern, family in KINDS if re.search(pattern, name)), None)
        if kind is not None:
            yield name, BY_NAME[kind]


REWARDS: dict[int, ProjectionReward] = {}


def reward(images: Tensor) -> Tensor:
    """Of any size."""
    side = images.shape[-1]
    judge = REWARDS.setdefault(side, ProjectionReward(side))
    return judge(images)


class Sweep:
    """One pipeline class: its plain pictures, and what the package makes of it."""

    def __init__(self, name: str, family: Family) -> None:
        cls = getattr(diffusers, name)
        same = name == family.pipeline
        self.pipe = family.build() if same else cls(**components(cls, family))
        self.pipe.set_progress_bar_config(disable=True)
        self.call = arguments(cls, family)
        plain = cache(self.picture)
        self.plain: Callable[[int], Tensor] = plain
        if not plain(SEED).isfinite().all():
            raise FloatingPointError("its own picture is not finite")

    def picture(self, seed: int) -> Tensor:
        """The pipeline's own picture of a seed, (1, 3, H, W) in [0, 1]."""
        found = self.pipe(**self.call, generator=make_generators([seed])[0], output_type="np")
        return torch.from_numpy(found.images).permute(0, 3, 1, 2).contiguous()

    def undisturbed(self) -> str:
        with guide(self.pipe, reward, 0.0):
            inside = self.picture(SEED)
        return self._same(inside)

    def left(self) -> str:
        return self._same(self.picture(SEED))

    def _same(self, found: Tensor) -> str:
        return "yes" if torch.equal(found, self.plain(SEED)) else "**no**"

    def seen(self) -> str:
        previews: list[Tensor] = []
        with (
            guide(self.pipe, reward, 0.2) as trace,
            observe(self.pipe) as observer,
            observer.watching(lambda step: previews.append(step.images())),
        ):
            returned = self.picture(SEED)
        if not trace.steps or previews[-1].shape != returned.shape:
            return f"**{tuple(previews[-1].shape)} for {tuple(returned.shape)}**"
        return f"{float((previews[-1] - returned).abs().max()):.0e}"

    def found(self, method: Any, batch: int) -> str:
        call = {name: value for name, value in self.call.items() if name != "batch_size"}
        prompt = call.pop("prompt", None)
        budget = 4 if method == "best_of" else 2
        candidates = search(
            self.pipe, prompt, reward, method, budget, SEED, batch_size=batch, **call
        )
        far = max(self._levels(c.image, c.seed) for c in candidates)
        return f"{far}"

    def _levels(self, image: Image.Image, seed: int) -> int:
        plain = (self.plain(seed) * 255).round()[0].permute(1, 2, 0).byte()
        ours = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return int((ours.view(plain.shape).int() - plain.int()).abs().max())

    def row(self) -> list[str]:
        """The table's cells."""
        return [
            answered(self.undisturbed),
            answered(self.left),
            answered(self.seen),
            answered(lambda: self.found("best_of", 1)),
            answered(lambda: self.found("best_of", 4)),
            answered(lambda: self.found(Prune(at=0.5, keep=1.0), 1)),
        ]


def answered(ask: Callable[[], str]) -> str:
    """The answer, or the refusal, or the crash."""
    try:
        return ask()
    except (NotImplementedError, ValueError) as refusal:
        return f"{type(refusal).__name__}: {' '.join(str(refusal).split())[:140]}"
    except Exception as error:
        return f"**{type(error).__name__}: {' '.join(str(error).split())[:140]}**"


def made(name: str, family: Family) -> Sweep | str:
    """The sweep of a class, or why its stock pipeline does not run on these components."""
    try:
        return Sweep(name, family)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    print("# Pipelines of diffusers", diffusers.__version__, "swept with tiny random components\n")
    print((__doc__ or "").split("Components", 1)[0].split("\n\n")[0] + "\n")
    print("Components" + (__doc__ or "").split("Components", 1)[1])
    print("| pipeline | strength 0 | left | x0 seen | batch 1 | batch 4 | pruned |")
    print("|---|---|---|---|---|---|---|")
    left: list[str] = []
    count = 0
    for name, family in classes():
        if names and not any(part in name for part in names):
            continue
        sweep = made(name, family)
        if isinstance(sweep, str):
            left.append(f"- `{name}`: {sweep}")
            continue
        count += 1
        variant = f" ({family.variant})" if family.variant and name == family.pipeline else ""
        print(f"| `{name}`{variant} | {' | '.join(sweep.row())} |", flush=True)
    print(f"\n{count} rows. Not run: the stock pipeline does not take these components.\n")
    print("\n".join(left))


if __name__ == "__main__":
    main(sys.argv[1:])
