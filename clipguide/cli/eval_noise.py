"""`clipguide eval noise`: retrieval by noise level of a scorer that reads latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, say
from clipguide.cli.pairs import CaptionsFile, ImagesFolder, NamesFile, embed_texts, read_pairs
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.clip.latent_scorer import LatentScorer
    from clipguide.clip.scorer import Scorer
    from clipguide.data.pairs import Pairs
    from clipguide.evaluation.latent_noise import Held

_PART = 16  # pictures encoded at once


def noise(
    captions: CaptionsFile,
    images: ImagesFolder,
    autoencoder: Annotated[
        str, typer.Option("--autoencoder", help="Of diffusers: a folder or a Hub repository.")
    ],
    scorer: Annotated[
        str, typer.Option("--scorer", help="A scorer of latents, as `clipguide train` saves it.")
    ],
    names: NamesFile = None,
    image_size: Annotated[
        int, typer.Option("--image-size", min=8, help="Side in pixels of what is encoded.")
    ] = 256,
    levels: Annotated[
        str, typer.Option("--levels", help="sigma_bar of the columns, with commas.")
    ] = "0,.25,.5,.7,.85,.95",
    teacher: Annotated[
        bool,
        typer.Option("--teacher", help="The teacher on decoded latents and on blurred pictures."),
    ] = False,
    gradients: Annotated[
        int,
        typer.Option(
            "--gradients", min=0, help="Pictures whose gradient is held against the teacher's."
        ),
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Another autoencoder than the scorer was made for.")
    ] = False,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """R@10 of text to image by noise level; beside it, what the teacher makes of pixels.

    sigma_bar is the share of noise, σ/√(α²+σ²). The teacher reads the decoded noisy latent, and
    the picture blurred until the share sigma_bar² of its variance is gone.
    """
    from clipguide.clip.latent_scorer import LatentScorer
    from clipguide.clip.loading import load_scorer
    from clipguide.training.autoencoders import load_autoencoder

    columns = _levels(levels)
    pairs = read_pairs(captions, images, names)
    quiet_libraries()
    model = load_scorer(scorer, device=device)
    if not isinstance(model, LatentScorer):
        raise Mistake(f"got --scorer {scorer}, which reads images, expected one of latents")
    coder = load_autoencoder(autoencoder).to(device)
    model.any_autoencoder = force
    model.check_autoencoder(coder)
    own = load_scorer(model.teacher, device=device)
    measured = _Measured(model, own, coder, pairs, image_size)
    rows = measured.rows(columns, teacher, gradients)
    data = {
        "measure": "R@10 of text to image in percent by sigma_bar",
        "scorer": model.name,
        "teacher": own.name,
        "images": len(measured.held.latents),
        "captions": len(measured.held.texts),
        "levels": columns,
        "rows": rows,
    }
    if json:
        emit(data)
        return
    from clipguide.report.table import format_table

    table = [[row["what"], *(row["values"].get(level) for level in columns)] for row in rows]
    say(format_table(["sigma_bar", *(f"{level:g}" for level in columns)], table))
    say(f"{data['images']} images, {data['captions']} captions, {model.name}")


def _levels(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [-1.0]
    if not all(0 <= level < 1 for level in found):
        raise Mistake(f"got --levels {text}, expected numbers from 0 to below 1 with commas")
    return found


class _Measured:
    """Pictures as latents, and the rows of the table."""

    def __init__(
        self, model: LatentScorer, own: Scorer, coder: Any, pairs: Pairs, image_size: int
    ) -> None:
        import torch
        from tqdm import tqdm

        from clipguide.evaluation.latent_noise import Held
        from clipguide.training.autoencoders import encode_images
        from clipguide.training.distillation_rows import latent_preprocess

        self._model, self._own, self._coder, self._pictures = model, own, coder, pairs.pictures
        shown = latent_preprocess(own.preprocess, image_size)
        found: list[Tensor] = []
        parts = batches(pairs.pictures, _PART)
        with torch.no_grad():
            for part in tqdm(parts, desc="latents", leave=False, delay=1.0):
                pixels = torch.stack([shown.from_pil(picture.load()) for picture in part])
                found.append(encode_images(coder, pixels.to(own.device).float() / 255).float())
        self.held: Held = Held(
            torch.cat(found), embed_texts(own, pairs.captions), torch.tensor(pairs.owners)
        )

    def rows(self, levels: Sequence[float], teacher: bool, gradients: int) -> list[dict[str, Any]]:
        from clipguide.evaluation.latent_noise import decoded, recall_by_noise

        found = [_row("latent scorer", recall_by_noise(self.held, self._encode, levels))]
        found.append(_row("teacher on pixels", {0.0: self._on_pixels([0.0])[0.0]}))
        if teacher:
            encode = decoded(self._decode, self._score)
            found += [
                _row("teacher on decoded latents", recall_by_noise(self.held, encode, levels)),
                _row("teacher on blurred pictures", self._on_pixels(levels)),
            ]
        if gradients:
            found.append(_row("cosine of gradients", self._gradients(levels, gradients)))
        return found

    def _encode(self, latents: Tensor, level: float) -> Tensor:
        return self._model.encode_latents(latents, level)

    def _decode(self, latents: Tensor) -> Tensor:
        from clipguide.attach.decoders import DECODERS

        decode = DECODERS[type(self._coder).__name__](self._coder)
        images: Tensor = decode(latents)
        return images

    def _score(self, images: Tensor) -> Tensor:
        return self._own.encode_image(images, match="smooth")

    def _on_pixels(self, levels: Sequence[float]) -> dict[float, float]:
        """The teacher on each picture blurred to the levels."""
        import torch

        from clipguide.evaluation.latent_noise import blurred

        preprocess, device = self._own.preprocess, self._own.device
        found: dict[float, list[Tensor]] = {level: [] for level in levels}
        with torch.no_grad():
            for part in batches(self._pictures, _PART):
                pixels = torch.stack([preprocess.from_pil(picture.load()) for picture in part])
                images = pixels.to(device).float() / 255
                for level in levels:
                    seen = preprocess.normalize(blurred(images, level**2))
                    found[level].append(self._own.model.encode_image(seen))
        return {level: self.held.recall(torch.cat(parts)) for level, parts in found.items()}

    def _gradients(self, levels: Sequence[float], count: int) -> dict[float, float]:
        """Mean cosine of the scorer's gradient at the noisy latent with the teacher's, through the
        decoder, at the clean one; of each picture's first caption."""
        from clipguide.evaluation.latent_noise import gradient_by_noise

        return gradient_by_noise(
            self.held, self._encode, lambda z: self._score(self._decode(z)), levels, count
        )


def _row(what: str, values: dict[float, float]) -> dict[str, Any]:
    return {"what": what, "values": values}
