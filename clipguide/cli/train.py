"""`clipguide train`: a CLIP, a latent scorer, a captioner, a text tower of another language."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli.output import JsonOption
from clipguide.cli.training_progress import TrainCommand

CLIP = "clipguide.cli.train_clip", "TRAIN_CLIP"
KINDS = {
    "latent": ("clipguide.cli.train_latent", "TRAIN_LATENT"),
    "language": ("clipguide.cli.train_language", "TRAIN_LANGUAGE"),
    "captioner": ("clipguide.cli.train_captioner", "TRAIN_CAPTIONER"),
}
"""Table of a settings file that says what is trained -> its command; any other file's is `CLIP`."""


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A .toml or .yaml file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change a setting: train.seed=1, output=DIR."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in output, which must be there.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a CLIP, a captioner or a language's text tower; the model is saved in output."""
    from clipguide.training.config_file import parse_file

    tables = parse_file(config)
    module, name = next((row for table, row in KINDS.items() if table in tables), CLIP)
    command: TrainCommand = getattr(import_module(module), name)
    command(config, changes or [], resume=resume, json=json)
