"""Steps and scale where none are given: the model's card, its scheduler, its call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Outcome
from diffusers import (
    FluxPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
)

from clipguide.generation.defaults import card_defaults, model_defaults

Cli = Callable[..., Outcome]
CARD = """---
pipeline_tag: text-to-image
---
# Turbo
Up to `num_inference_steps=50` hurt.
```bash
pip install diffusers
```
```python
pipe(prompt, num_inference_steps=1, guidance_scale=0.0)
```
```py
pipe(prompt, image=image, num_inference_steps=2, strength=0.5, guidance_scale=1.5)
```
"""


def bare(kind: type, scheduler: object = None) -> Any:
    """A pipeline of the real class without its components: its signature and scheduler count."""
    pipe = kind.__new__(kind)
    object.__setattr__(pipe, "scheduler", scheduler)
    return pipe


def test_a_card_says_how_its_model_is_run(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    assert card_defaults(str(tmp_path)) == {"steps": 1, "cfg_scale": 0}
    found = model_defaults(str(tmp_path), bare(StableDiffusionPipeline))
    assert (found.steps, found.cfg_scale) == (1, 0)
    (tmp_path / "README.md").write_text("```python\npipe(num_inference_steps=steps)\n```")
    assert card_defaults(str(tmp_path)) == {}
    assert card_defaults("starter") == {}


def test_the_call_and_the_scheduler_say_how_a_pipeline_is_run() -> None:
    cases = {
        StableDiffusionPipeline: (50, 7.5),
        FluxPipeline: (28, 3.5),
        LatentConsistencyModelPipeline: (4, 8.5),
    }
    for kind, expected in cases.items():
        found = model_defaults("x", bare(kind))
        assert (found.steps, found.cfg_scale) == expected
    lcm = model_defaults("x", bare(StableDiffusionPipeline, LCMScheduler()))
    assert (lcm.steps, lcm.cfg_scale) == (4, 1)
    own = model_defaults("x", bare(LatentConsistencyModelPipeline, LCMScheduler()))
    assert (own.steps, own.cfg_scale) == (4, 8.5)


def test_what_the_model_says_is_recorded_and_said(
    cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    model = tmp_path / "turbo"
    model.mkdir()
    for file in (tiny_models / "pipe").iterdir():
        (model / file.name).symlink_to(file)
    (model / "README.md").write_text(CARD)
    base = ["generate", "a", "--model", model, "--scorer", tiny_models / "clip", "--strength", 0]
    done = cli(*base, "--out", tmp_path / "out", "--cfg-scale", 2, "--json")
    settings = done.data["results"][0]["settings"]
    assert (settings["steps"], settings["cfg_scale"], settings["device"]) == (1, 2, "cpu")
    assert "steps 1, as the model's card has it" in done.err
