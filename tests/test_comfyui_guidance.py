"""The pack's guided models under ComfyUI's own ModelPatcher and samplers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_models import TinyVae, need_comfyui, pack, randomised, sampled, tiny_model
from diffusers import AutoencoderTiny, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from tiny_pipelines import tiny_pipeline, tiny_scheduler, tiny_scorer
from torch import Tensor

from clipguide import ClipReward, guide
from clipguide.guidance import GuidanceConfig, NoiseLevel, parameterization
from clipguide.rewards import Views

need_comfyui()

import comfy.model_management as management  # noqa: E402
import comfy.samplers  # noqa: E402
import folder_paths  # noqa: E402
from comfy.taesd.taesd import TAESD  # noqa: E402

NAMES = {"sd1": "taesd", "flux": "taef1"}
SETTINGS: dict[str, Any] = {
    "strength": 0.5, "mode": "x0", "normalize": "rms", "window_low": 0.0, "window_high": 1.0,
    "every": 1, "damping": 0.0, "own_settings": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def approx(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AutoencoderTiny]:
    """Random TAESDs in ComfyUI's folder of them; the same as diffusers has them, by kind."""
    folder, found = tmp_path_factory.mktemp("vae_approx"), {}
    folder_paths.add_model_folder_path("vae_approx", str(folder))
    for kind, channels in (("sd1", 4), ("flux", 16)):
        torch.manual_seed(2)
        state = randomised(TAESD(latent_channels=channels).taesd_decoder).state_dict()
        save_file(state, folder / f"{NAMES[kind]}_decoder.safetensors")
        tiny = AutoencoderTiny(latent_channels=channels).eval()
        tiny.decoder.layers.load_state_dict(
            {f"{int(k.split('.')[0]) - 1}.{k.partition('.')[2]}": v for k, v in state.items()}
        )
        found[kind] = tiny
    return found


def reward(*prompts: str, **options: Any) -> ClipReward:
    return ClipReward(tiny_scorer(), [*prompts] or "a red fox", **options)


def guided(model: Any, climbed: Any, vae: Any = None, **settings: Any) -> tuple[Any, Any]:
    """What the node gives, run as ComfyUI runs it."""
    with torch.inference_mode():
        node = pack("guidance").GuideModel
        return node.execute(model, climbed, vae=vae, **(SETTINGS | settings)).args


class Steps(list[dict[str, Any]]):
    """What ComfyUI hands to the guidance of each step."""

    def on(self, model: Any) -> Any:
        """A clone with whose guided steps it fills itself."""
        clone = model.clone()
        (before,) = clone.model_options["sampler_post_cfg_function"]

        def seen(step: dict[str, Any]) -> Tensor:
            kept = {name: step[name].clone() for name in ("denoised", "input", "sigma")}
            self.append({"model": step["model"], **kept})
            return before(step)

        clone.model_options["sampler_post_cfg_function"] = [seen]
        return clone


def by_diffusers(
    x: Tensor, out: Tensor, sigma: float, decoder: Any, config: GuidanceConfig, *, flow: bool
) -> Tensor:
    """The x0 with which diffusers' Euler scheduler goes on from a guided step."""
    scheduler: Any = (
        FlowMatchEulerDiscreteScheduler() if flow else tiny_scheduler(EulerDiscreteScheduler)
    )
    pipe = tiny_pipeline(scheduler=scheduler)
    with guide(pipe, reward(), decoder=decoder, config=config):
        scheduler.set_timesteps(2)
        scheduler.sigmas = torch.tensor([sigma, sigma / 2, 0.0])
        scheduler._step_index = 0
        after = scheduler.step(out, scheduler.timesteps[0], x, return_dict=False)[0]
    return 2 * after - x  # after = x + (x - x0')/sigma · (sigma/2 - sigma)


@pytest.mark.parametrize("normalize", ["rms", "clamp", "raw"])
@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_the_displacement_is_that_of_guide_in_diffusers(
    approx: dict[str, AutoencoderTiny], kind: str, normalize: str
) -> None:
    """At the levels and latents of a run of ComfyUI's, from x0 of the same bits."""
    strength = 3.0 if normalize == "raw" else 0.5
    model, runs = guided(tiny_model(kind), reward(), strength=strength, normalize=normalize)
    steps = Steps()
    sampled(steps.on(model), kind=kind, batch=2, steps=4)
    assert len(steps) == len(runs.trace.steps) == 4
    for step in steps:
        x, sigma, flow = step["input"].clone(), float(step["sigma"][0]), kind == "flux"
        level = NoiseLevel(1 - sigma if flow else 1.0, sigma)
        form = parameterization("flow_prediction" if flow else "epsilon", level)
        out = (x - step["denoised"]) / sigma
        x0 = form.x0(x, out)
        found = runs.denoised({**step, "denoised": x0}) - x0
        expected = by_diffusers(x, out, sigma, approx[kind], runs.config, flow=flow) - x0
        largest = float(expected.abs().max())
        assert largest > 1e-3 * strength * min(sigma, 1) ** 2
        # the scheduler's sums are as large as its latents
        rounding = 1e-6 * float(x.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * largest + rounding)


@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_strength_0_and_a_removed_node_are_the_model_itself_to_the_bit(
    approx: dict[str, AutoencoderTiny], kind: str
) -> None:
    model = tiny_model(kind)
    plain = sampled(model, kind=kind)
    still, runs = guided(model, reward(), strength=0.0)
    assert torch.equal(sampled(still, kind=kind), plain)
    assert len(runs.trace.steps) == 3
    moved, _ = guided(model, reward())
    assert not torch.equal(sampled(moved, kind=kind), plain)
    assert torch.equal(sampled(model, kind=kind), plain)
    assert "sampler_post_cfg_function" not in model.model_options
    assert "wrappers" not in model.model_options["transformer_options"]
    assert model.clone_has_same_weights(moved)
    assert moved.clone_has_same_weights(model)  # or ComfyUI would load them again


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_is_guided(sampler: str) -> None:
    model = tiny_model()  # a small strength, or dpm_adaptive makes its steps as small
    moved, runs = guided(model, reward(), TinyVae(), strength=0.01)
    found, plain = (sampled(one, sampler=sampler, steps=4) for one in (moved, model))
    assert bool(found.isfinite().all())
    assert not torch.equal(found, plain)
    assert len(runs.trace.steps) >= 3
    assert {step.score.shape for step in runs.trace.steps} == {(1,)}


def test_each_picture_of_a_batch_climbs_its_own_prompt() -> None:
    def drawn(*texts: str) -> Tensor:
        moved, _ = guided(tiny_model(), reward(*texts), TinyVae(), strength=2.0)
        return sampled(moved, batch=2, prompts=(1, 2))

    both, first, second = drawn("a fox", "a cat"), drawn("a fox"), drawn("a cat")
    torch.testing.assert_close(both[0], first[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1], second[1], rtol=1e-4, atol=1e-4)
    assert float((both[0] - second[0]).abs().max()) > 1e-2


def test_without_classifier_free_guidance() -> None:
    model = tiny_model()
    moved, runs = guided(model, reward(), TinyVae())
    found, plain = sampled(moved, cfg=1.0), sampled(model, cfg=1.0)
    assert not torch.equal(found, plain)
    assert len(runs.trace.steps) == 3


def test_the_views_are_those_of_the_samplers_seed() -> None:
    moved, _ = guided(tiny_model(), reward(views=Views(2, (0.4, 1.0))), TinyVae(), strength=1.0)
    assert torch.equal(sampled(moved), sampled(moved))
    again, _ = guided(tiny_model(), reward(views=Views(2, (0.4, 1.0))), TinyVae(), strength=1.0)
    assert torch.equal(sampled(again), sampled(moved))


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    model = tiny_model()
    plain = sampled(model)
    moved, runs = guided(model, reward(), TinyVae())
    whole = sampled(moved)

    def interrupt(step: int, *rest: Any) -> None:
        management.interrupt_current_processing(step == 0)

    with pytest.raises(management.InterruptProcessingException):
        sampled(moved, steps=6, callback=interrupt)
    management.interrupt_current_processing(False)
    assert 1 <= len(runs.trace.steps) < 6
    assert torch.equal(sampled(moved), whole)
    assert len(runs.trace.steps) == 3
    assert torch.equal(sampled(model), plain)


def test_a_part_of_a_run_outside_of_the_window_is_said_not_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model()
    moved, _ = guided(model, reward(), TinyVae(), window_low=0.0, window_high=0.05)
    part = {"start_step": 0, "last_step": 1}
    assert torch.equal(sampled(moved, **part), sampled(model, **part))
    assert "the window covers none of the 1 steps" in caplog.text


def test_a_model_without_a_tiny_decoder_asks_for_its_vae(tmp_path: Path) -> None:
    formats = pytest.importorskip("comfy.latent_formats")
    find = pack("decoding").find_decoder
    with pytest.raises(ValueError, match="no tiny decoder; connect the model's VAE"):
        find(formats.SD_X4(), None)
    with pytest.raises(ValueError, match="got no taesd3_decoder in ComfyUI's models/vae_approx"):
        find(formats.SD3(), None)
    with pytest.raises(ValueError, match="not those of single pictures"):
        find(formats.Wan21(), None)
    with pytest.raises(ValueError, match="got a VAE of 4 channels for latents of 16"):
        find(formats.Flux(), TinyVae())


def test_settings_that_reach_further_than_a_step_are_refused_at_the_node() -> None:
    with pytest.raises(ValueError, match=r"got window \(0\.9, 0\.1\)"):
        guided(tiny_model(), reward(), TinyVae(), window_low=0.9, window_high=0.1)
    with pytest.raises(ValueError, match="reads images, expected one that reads latents"):
        guided(tiny_model(), reward(), TinyVae(), mode="noisy")
