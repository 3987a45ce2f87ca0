"""Weights kept in one precision and computed in another: cast by layer, float16 autoencoders."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from families.parts import ddim
from tiny_clip import tiny_clip_dir
from tiny_pipelines import ProjectionReward, call, tiny_pipeline
from torch import Tensor, nn

from clipguide.attach.decoders import upcast
from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.clip.loading import load_scorer

REWARD = ProjectionReward()
STORED = torch.float8_e4m3fn


def own_pipeline(**parts: Any) -> Any:
    pipe = tiny_pipeline(scheduler=ddim())
    for name in ("unet", "vae"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    return pipe


def cast(module: nn.Module, computed: torch.dtype = torch.float32) -> nn.Module:
    apply_layerwise_casting(module, STORED, computed, skip_modules_pattern=("norm",))
    return module


def is_cast(module: nn.Module) -> bool:
    return "layerwise_casting" in getattr(getattr(module, "_diffusers_hook", None), "hooks", {})


def rounded(module: nn.Module, like: nn.Module) -> None:
    """The weights that a cast module computes with, for good."""
    for name, part in like.named_modules():
        if is_cast(part):
            for weight in module.get_submodule(name).parameters():
                weight.data = weight.data.to(STORED).float()


def guided(pipe: Any, mode: Any, **settings: Any) -> Tensor:
    with guide(pipe, REWARD, 0.3, mode=mode, **settings):
        return call(pipe, steps=3)


@pytest.mark.parametrize("mode", ["x0", "xt", "tilt"])
@pytest.mark.parametrize("names", [("unet",), ("vae",), ("unet", "vae")], ids="+".join)
def test_weights_cast_layer_by_layer_guide_as_those_that_stay(
    mode: Any, names: tuple[str, ...]
) -> None:
    stored, plain = own_pipeline(), own_pipeline()
    for name in names:
        rounded(getattr(plain, name), cast(getattr(stored, name)))
    unguided = call(stored, steps=3)
    assert torch.equal(unguided, call(plain, steps=3))
    found = guided(stored, mode)
    assert torch.equal(found, guided(plain, mode))
    assert not torch.equal(found, unguided)
    assert torch.equal(call(stored, steps=3), unguided)
    kept = [w.dtype for n in names for m in getattr(stored, n).modules() if is_cast(m)
            for w in m.parameters()]  # fmt: skip
    assert {*kept} == {STORED}


def test_checkpointing_what_is_put_away_is_refused_by_name() -> None:
    """The recomputed graph would read weights that are stored again; out of the graph they may."""
    pipe = own_pipeline()
    cast(pipe.unet)
    expected = guided(pipe, "x0")
    assert torch.equal(guided(pipe, "x0", checkpoint=True), expected)
    with pytest.raises(RuntimeError, match=r"UNet2DConditionModel.*expected checkpoint=False"):
        guided(pipe, "xt", checkpoint=True)
    cast(pipe.vae)
    with pytest.raises(RuntimeError, match=r"AutoencoderKL.*expected checkpoint=False"):
        guided(pipe, "x0", checkpoint=True)


def half_autoencoder(pipe: Any, *, layerwise: bool) -> list[Tensor]:
    """The pipeline's autoencoder in float16, which overflows by its config; its weights."""
    pipe.vae = pipe.vae.half()
    assert pipe.vae.config.force_upcast
    if layerwise:
        cast(pipe.vae, torch.float16)
    return [weight.clone() for weight in pipe.vae.parameters()]


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_a_float16_autoencoder_is_float32_in_a_preview(layerwise: bool, inference: bool) -> None:
    """Seen of a step under inference mode too, after which it can still be guided with."""
    pipe = own_pipeline()
    before = half_autoencoder(pipe, layerwise=layerwise)
    full = copy.deepcopy(pipe.vae) if not layerwise else None
    previews: list[Tensor] = []
    latents: list[Tensor] = []

    def look(step: Any) -> None:
        latents.append(step.x0())
        previews.append(step.images())

    with torch.inference_mode(inference), observe(pipe) as observer, observer.watching(look):
        call(pipe, output_type="latent")
    assert pipe.vae.dtype == torch.float16
    now = [*pipe.vae.parameters()]
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(before, now, strict=True))
    assert [w.dtype for w in now] == [w.dtype for w in before]
    assert not any(weight.is_inference() for weight in now)
    if full is not None:
        plain = full.float().decode(latents[-1] / full.config.scaling_factor).sample
        assert torch.equal(previews[-1], (plain / 2 + 0.5).clamp(0, 1))
    with guide(pipe, REWARD, 0.3) as trace:
        call(pipe, output_type="latent")
    assert trace.steps


def test_casting_an_autoencoder_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """diffusers warns of every `to(dtype)` of a model, twice for each guided step."""
    pipe = own_pipeline()
    half_autoencoder(pipe, layerwise=False)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        with guide(pipe, REWARD, 0.3):
            call(pipe, output_type="latent")
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if "float32" in record.getMessage()]


def test_what_stays_float32_in_a_half_autoencoder_stays_it() -> None:
    pipe = own_pipeline()
    half_autoencoder(pipe, layerwise=False)
    norm = pipe.vae.decoder.conv_norm_out.float()
    bits = norm.weight.clone() + 1e-5  # no float16 number
    norm.weight.data.copy_(bits)
    with upcast(pipe.vae):
        assert norm.weight.dtype == torch.float32
    assert torch.equal(norm.weight, bits)


def test_a_scorer_moved_in_inference_mode_guides_after_it(tmp_path: Path) -> None:
    scorer = load_scorer(tiny_clip_dir(tmp_path, image_size=16))
    with torch.inference_mode():
        scorer.to("meta")
        assert not any(weight.is_inference() for weight in scorer.model.module.parameters())
