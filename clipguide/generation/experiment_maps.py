"""Where the phrases of its prompt are in a picture, for the first pictures of every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from clipguide.clip.loading import is_cross_encoder, load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.clip.similarity_map import shade, similarity_map
from clipguide.data.prompt_parts import parts_of
from clipguide.generation.arm_job import Say
from clipguide.generation.experiment import Experiment
from clipguide.generation.experiment_arms import LOOKED_INTO, Picture
from clipguide.images import load_image
from clipguide.report.contact_sheet import Picture as Shown
from clipguide.report.contact_sheet import Tile, contact_sheet
from clipguide.report.experiment_page import map_file
from clipguide.report.metadata import save_drawing

PHRASES = 3
"""Of a prompt that are looked for."""
STEP = 0.15
"""From one cover to the next: 25 covers of a square picture."""


def draw_maps(
    experiment: Experiment, found: Mapping[str, Sequence[Picture]], run: Path, say: Say
) -> None:
    """Writes the maps that are missing, or older than their picture. Cost: 26 image embeddings a
    phrase, for up to `PHRASES` phrases of `LOOKED_INTO` prompts of each arm; without a CLIP among
    the scorers none is drawn."""
    missing = [
        (picture, map_file(run, arm, picture.place, picture.seed))
        for arm, pictures in found.items()
        for picture in pictures
        if picture.place < LOOKED_INTO
    ]
    missing = [(picture, file) for picture, file in missing if _is_older(file, picture.file)]
    name = map_scorer(experiment)
    if name is None or not missing:
        return
    say(f"maps of phrases by {name}")
    scorer = load_scorer(name)
    for picture, file in missing:
        image = load_image(picture.file)
        phrases = parts_of(" ".join(experiment.prompts[picture.place].text.split()))[:PHRASES]
        save_drawing(map_sheet(scorer, image, phrases), file, [])


def map_scorer(experiment: Experiment) -> str | None:
    """The headline, or else the first scorer, that embeds pictures: a cross-encoder would be asked
    once for every cover. None where there is none."""
    names = [experiment.judging.headline, *experiment.scorers]
    own = [name for name in names if name in experiment.scorers and not is_cross_encoder(name)]
    return own[0] if own else None


def map_sheet(scorer: Scorer, image: Image.Image, phrases: Sequence[str]) -> Image.Image:
    """The picture, and beside it, for each phrase, the picture lit where the phrase is."""
    shaded = [shade(image, similarity_map(scorer, image, phrase, step=STEP)) for phrase in phrases]
    pictures = [Shown(one, (phrase,)) for one, phrase in zip(shaded, phrases, strict=True)]
    return contact_sheet([Tile(f"by {scorer.name}", (Shown(image), *pictures))])


def _is_older(file: Path, picture: Path) -> bool:
    return not file.exists() or file.stat().st_mtime_ns < picture.stat().st_mtime_ns
