"""What a run of ComfyUI leaves: the trace as a picture, files that say how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfy_models import TinyVae, images, missing, only_with_comfyui, pack, start, tiny_model
from PIL import Image
from tiny_pipelines import tiny_scorer

from clipguide import ClipReward
from clipguide.generation.record import read_recipe
from clipguide.guidance.trace import Trace, TraceStep
from clipguide.report.metadata import read_metadata
from clipguide.report.trace_picture import trace_picture

if not missing():
    start()


def test_a_trace_is_drawn_and_an_empty_one_refused() -> None:
    steps = [
        TraceStep(i, 0.0, 1 - i / 4, torch.tensor([0.1 * i, 0.3, torch.nan]), torch.ones(3))
        for i in range(4)
    ]
    drawn = np.asarray(trace_picture(Trace(steps), 320, 200))
    assert drawn.shape == (200, 320, 3)
    for color in ((0x1F, 0x6F, 0xEB), (0xD1, 0x57, 0x0F)):  # two lines, the third is NaN
        where = (drawn == color).all(-1)
        assert where.sum() > 200
    rows = np.nonzero((drawn == (0x1F, 0x6F, 0xEB)).all(-1))[0]
    assert rows.max() - rows.min() > 100  # it rises over most of the height
    with pytest.raises(ValueError, match="without a guided step"):
        trace_picture(Trace())
    with pytest.raises(ValueError, match="got a picture of 20x20"):
        trace_picture(Trace(steps), 20, 20)


def test_a_picture_of_comfyui_is_not_reproduced_but_named() -> None:
    with pytest.raises(ValueError, match="got a picture made in ComfyUI, expected one of"):
        read_recipe({"schema": 1, "made_in": "ComfyUI"})


@only_with_comfyui
def test_saved_pictures_say_how_they_were_made(tmp_path: Path) -> None:
    import folder_paths

    folder_paths.set_output_directory(str(tmp_path))
    records = pack("records")
    guidance = pack("guidance").GuideModel.execute
    settings = {
        "strength": 0.2, "mode": "x0", "normalize": "rms", "window_low": 0.0, "window_high": 1.0,
        "every": 1, "damping": 0.0, "own_settings": False,
    }  # fmt: skip
    _, runs = guidance(tiny_model(), ClipReward(tiny_scorer(), "a"), TinyVae(), **settings).args
    with pytest.raises(ValueError, match="expected `after` connected to a sampler"):
        records.TracePicture.execute(runs, {}, 320, 200)

    class Held(records.SaveImages):
        hidden = SimpleNamespace(
            prompt={"1": {"class_type": "A"}}, extra_pnginfo={"workflow": {"nodes": []}}
        )

    Held.execute(images(2), "fox", "a red fox", "a cat", 7, tiny_scorer(), runs)
    files = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in files] == ["fox_00001_.png", "fox_00002_.png"]
    metadata = read_metadata(files[1])
    assert metadata.record is not None
    assert metadata.record["made_in"] == "ComfyUI"
    assert metadata.record["guidance"]["strength"] == 0.2
    score = tiny_scorer().score(images(2).permute(0, 3, 1, 2), "a red fox")[1]
    assert metadata.record["scores"][0]["value"] == pytest.approx(float(score))
    assert metadata.parameters is not None
    assert (metadata.parameters.prompt, metadata.parameters.negative) == ("a red fox", "a cat")
    with Image.open(files[0]) as picture:
        assert json.loads(picture.info["prompt"]) == {"1": {"class_type": "A"}}
        assert json.loads(picture.info["workflow"]) == {"nodes": []}
    with pytest.raises(Exception, match="outside the output folder"):
        Held.execute(images(1), "../fox", "a", "", 7)
