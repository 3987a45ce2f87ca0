"""decoder="auto" and decoders by name: the right one, from the cache alone, and said which."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from huggingface_hub import constants
from tiny_pipelines import ProjectionReward, generators, tiny_pipeline, tiny_taesd

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.attach.tiny_decoders import TINY, cached_tiny, named_decoder, tiny_name

COMMIT = "0" * 40


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, where HF_HOME would put it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, name: str, source: Path) -> Path:
    """Puts a folder into a hub cache as if `name` had been downloaded; returns its snapshot."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(source, repo / "snapshots" / COMMIT))


def pipeline_with(channels: int, scale: float) -> Any:
    """A pipeline whose autoencoder has such latents."""
    pipe = tiny_pipeline()
    pipe.vae = AutoencoderKL(
        norm_num_groups=4,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        scaling_factor=scale,
    )
    return pipe


def sample(pipe: Any) -> torch.Tensor:
    return pipe(
        "a fox", num_inference_steps=2, generator=generators(0), output_type="latent"
    ).images


def test_auto_takes_the_one_in_the_cache_and_says_so(hub_cache: Path, tmp_path: Path) -> None:
    decoder = tiny_taesd()
    decoder.save_pretrained(tmp_path / "saved")
    put(hub_cache, "madebyollin/taesd", tmp_path / "saved")
    pipe = tiny_pipeline()
    with guide(pipe, ProjectionReward(), 0.5, decoder=decoder) as given:
        expected = sample(pipe)
    with guide(pipe, ProjectionReward(), 0.5, decoder="auto") as trace:
        found = sample(pipe)
    assert torch.equal(found, expected)
    assert (given.decoder, trace.decoder) == ("AutoencoderTiny", "madebyollin/taesd")
    previews: list[torch.Tensor] = []
    with (
        observe(pipe, decoder="auto") as observer,
        observer.watching(lambda step: previews.append(step.images())),
    ):
        sample(pipe)
    assert previews[0].shape == (1, 3, 16, 16)


def test_a_folder_is_taken_by_name(tmp_path: Path) -> None:
    decoder = tiny_taesd(upsampled=0)
    decoder.save_pretrained(tmp_path)
    pipe = tiny_pipeline()
    with guide(pipe, ProjectionReward(size=8), 0.5, decoder=str(tmp_path)) as trace:
        sample(pipe)
    assert trace.decoder == str(tmp_path)


def test_without_a_name_the_trace_says_what_decodes() -> None:
    pipe = tiny_pipeline()
    with guide(pipe, ProjectionReward(), 0.5) as trace:
        sample(pipe)
    assert trace.decoder == "AutoencoderKL"


def test_an_empty_cache_is_an_error_that_says_how_to_mend_it(hub_cache: Path) -> None:
    pipe = tiny_pipeline()
    message = r"madebyollin/taesd is not in the hub's cache.*decoder='madebyollin/taesd'"
    with (
        pytest.raises(ValueError, match=message),
        guide(pipe, ProjectionReward(), decoder="auto"),
    ):
        pass
    assert not hub_cache.exists()  # nothing was fetched


@pytest.mark.parametrize(("latents", "name"), TINY.items(), ids=str)
def test_latents_tell_which(latents: tuple[int, float], name: str) -> None:
    assert tiny_name(pipeline_with(*latents)) == name


@pytest.mark.parametrize("latents", [(4, 0.3611), (16, 0.18215), (8, 0.5)], ids=str)
def test_latents_of_no_tiny_autoencoder_are_refused(latents: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match=rf"{latents[0]} channels scaled by {latents[1]}.*taef1"):
        tiny_name(pipeline_with(*latents))


def test_another_kind_of_autoencoder_is_refused() -> None:
    pipe = tiny_pipeline()
    pipe.vae = tiny_taesd()
    with pytest.raises(ValueError, match="with autoencoder AutoencoderTiny"):
        tiny_name(pipe)


@pytest.mark.parametrize(("latents", "name"), TINY.items(), ids=str)
def test_the_real_ones_are_found_and_fit(
    latents: tuple[int, float], name: str, hub_cache: Path, shared_data: Path
) -> None:
    """Each has as many channels as the latents, and decodes what it encoded itself."""
    snapshot = put(hub_cache, name, shared_data / "taesd" / name.split("/")[1])
    pipe = pipeline_with(*latents)
    assert cached_tiny(pipe) == (name, str(snapshot))
    decoder, said = named_decoder(pipe, "auto")
    assert said == name
    assert isinstance(decoder, AutoencoderTiny)
    assert decoder.config.latent_channels == latents[0]
    ramp = torch.linspace(-0.8, 0.8, 64)
    picture = torch.stack(
        [ramp.expand(64, 64), ramp.view(-1, 1).expand(64, 64), ramp.flip(0) * ramp.view(-1, 1)]
    )
    with torch.no_grad():
        again = decoder.decode(decoder.encode(picture[None]).latents).sample
    assert float((again - picture).abs().mean()) < 0.1
