"""The report of `clipguide eval run`: one HTML file that needs no other and asks nobody.

Tables with intervals, gain against seconds, distributions, categories, and a gallery of same-seed
pairs with a slider. Pictures are thumbnails in the page; every text is data, never markup; a
Content-Security-Policy lets its one script and one style run and nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

from PIL import Image

from clipguide.images import ImageError, load_image
from clipguide.texts import read_text, split_lines

SIDE = 256  # longest side of a thumbnail, pixels
WIDE = 768  # of a strip of previews, of a trace, and of a map
INSIDE = "inside"
"""Folder beside an arm's pictures: how some of them came about."""
KINDS = {
    "x0": "x0 previews from noise to picture",
    "moved": "what guidance's gradient moved in each preview: grey is nothing, amplified alike",
    "trace": "the reward by noise level",
}
"""What is in it of a picture."""
MAPS = "maps"
QUALITY = 80  # of its JPEG


def experiment_page(run: Path) -> str:
    """The page of a run's folder, from its summary.json, samples.jsonl and experiment.json.

    Cost: every picture is read and made small once.

    Raises:
        ValueError: the folder holds no finished run.

    Example:
        write_text(run / "report.html", experiment_page(run))
    """
    style, script = (_asset(f"experiment.{kind}") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("experiment.html")).substitute(
        policy=html.escape(policy), style=style, script=script, data=_as_script(_data(run))
    )


def _asset(name: str) -> str:
    return files("clipguide.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """As a browser takes it: of exactly what stands between the tags."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _as_script(value: Mapping[str, Any]) -> str:
    """JSON that no browser ends early: `<` never stands in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(run: Path) -> dict[str, Any]:
    for name in ("summary.json", "samples.jsonl", "experiment.json"):
        if not (run / name).is_file():
            raise ValueError(f"{run}: got no {name}, expected the folder of a finished eval run")
    summary = json.loads(read_text(run / "summary.json"))
    design = json.loads(read_text(run / "experiment.json"))
    lines = split_lines(read_text(run / "samples.jsonl"))
    samples = [json.loads(line) for line in lines if line.strip()]
    settings = {arm["name"]: arm["settings"] for arm in design["arms"]}
    arms: list[dict[str, Any]] = []
    for name, arm in summary["arms"].items():
        own = [sample for sample in samples if sample["arm"] == name]
        seconds = [sample["seconds"] for sample in own if sample["seconds"] is not None]
        arms.append(
            {"name": name, **arm, "seconds": fmean(seconds) if seconds else None}
            | {"settings": settings.get(name), "samples": [_card(sample, run) for sample in own]}
        )
    columns = dict.fromkeys(scorer for sample in samples for scorer in sample["scores"])
    about = f"{summary['prompts']} prompts, {summary['pictures']} pictures; "
    about += f"headline {summary['headline']}, baseline {summary['baseline']}; "
    about += "; ".join(f"{name}: {text}" for name, text in summary["conventions"].items())
    kept = ("headline", "baseline", "duels", "hacking", "categories", "warnings")
    return {key: summary[key] for key in kept} | {
        "about": about,
        "columns": [*columns],
        "arms": arms,
    }


def map_file(run: Path, arm: str, place: int, seed: int) -> Path:
    """Where the maps of the phrases of a picture are."""
    name = hashlib.sha256(arm.encode()).hexdigest()[:8]
    return run / MAPS / f"{name}-{place:05d}-{seed}.png"


def _card(sample: Mapping[str, Any], run: Path) -> dict[str, Any]:
    kept = ("prompt", "category", "seed", "file", "scores")
    file = run / sample["file"]
    inside = [(text, file.parent / INSIDE / f"{file.stem}-{kind}.png")
              for kind, text in KINDS.items()]  # fmt: skip
    maps = map_file(run, sample["arm"], sample["place"], sample["seed"])
    inside.append(("where its phrases are: dark is where covering them changes nothing", maps))
    shown = [{"text": t, "image": _thumbnail(one, WIDE)} for t, one in inside if one.exists()]
    return {key: sample[key] for key in kept} | {"image": _thumbnail(file), "inside": shown}


def _thumbnail(file: Path, side: int = SIDE) -> str:
    """A data URL; of a file that is gone meanwhile, of one grey pixel."""
    try:
        image = load_image(file).copy()
    except ImageError:
        image = Image.new("RGB", (1, 1), "grey")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
