"""`clipguide match`: images beside their best captions, or captions over their best images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.captions import (
    CaptionColumnOption,
    CaptionsFile,
    CaptionsOption,
    ImageColumnOption,
    captions_file,
)
from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake, need_png
from clipguide.cli.output import DeviceOption, JsonOption, ScorerOption, emit, note
from clipguide.cli.pairs import embed_texts
from clipguide.cli.starter import load_scorer_for

if TYPE_CHECKING:
    from PIL import Image

    from clipguide.zero_shot import Match

DRAWN = 24  # rows of one picture


def match(
    images: ImagesArgument,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="A text file with one caption a line.")
    ] = None,
    captions: CaptionsOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    by_text: Annotated[
        bool, typer.Option("--by-text", help="The best images of each caption instead.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help=f"Draw them, the first {DRAWN}: a .png.")
    ] = None,
    scorer: ScorerOption = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Matches of each.")] = 5,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Match images with texts, with probabilities among all that were given."""
    if (texts is None) == (captions is None):
        raise Mistake("give either --texts FILE or --captions FILE")
    if out is not None:
        need_png("--out", out)
    folder = Folder(images)
    file = captions_file(captions, image_column, caption_column)
    choices, own_of = _choices(folder, images, texts, file)
    model = load_scorer_for(scorer, folder.files, choices, device)
    import torch

    from clipguide.zero_shot import best_matches

    files: list[Path] = []
    vectors: list[torch.Tensor] = []
    for batch in folder.batches():
        files += [path for path, _ in batch]
        vectors.append(model.encode_image([image for _, image in batch]))
    cosines = torch.cat(vectors) @ embed_texts(model, choices).T  # (N, P)
    found = best_matches(cosines.T if by_text else cosines, model.logit_scale, top_k)
    # with --texts nothing says which are an image's own
    own = None if own_of is None else [own_of.get(file, []) for file in files]
    if out is not None:
        _draw(out, files, choices, found, own, by_text)
    if json:
        rows = _rows(files, choices, found, own, by_text)
        emit(with_bad({"scorer": model.name, "texts": len(choices), "results": rows}, folder))
    else:
        _print(files, choices, found, by_text)


def _choices(
    folder: Folder, sources: list[Path], texts: Path | None, captions: CaptionsFile | None
) -> tuple[list[str], dict[Path, list[int]] | None]:
    """Different texts in their order, and the places of each image's own where that is known."""
    if texts is not None:
        from clipguide.texts import read_lines

        choices = [*dict.fromkeys(read_lines(texts))]
        if not choices:
            raise Mistake(f"{texts}: no captions in it")
        return choices, None
    assert captions is not None
    matched = captions.match(folder.files, sources).texts
    place: dict[str, int] = {}
    own = {
        file: [place.setdefault(text, len(place)) for text in words]
        for file, words in matched.items()
    }
    return [*place], own


def _draw(
    out: Path, files: list[Path], choices: list[str], found: list[list[Match]],
    own: list[list[int]] | None, by_text: bool,
) -> None:  # fmt: skip
    from clipguide.report.matches import captions_picture, images_picture
    from clipguide.report.metadata import save_drawing

    picture: Image.Image
    if by_text:
        picture = images_picture(choices[:DRAWN], files, found[:DRAWN])
    else:
        marked = [[] for _ in files] if own is None else own
        picture = captions_picture(files[:DRAWN], choices, found[:DRAWN], marked[:DRAWN])
    save_drawing(picture, out, [str(file) for file in files])
    note(f"clipguide: wrote {out}")


def _rows(
    files: list[Path], choices: list[str], found: list[list[Match]],
    own: list[list[int]] | None, by_text: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    rows: list[dict[str, Any]] = []
    for number, matches in enumerate(found):
        answers: list[dict[str, Any]] = []
        for one in matches:
            image, text = (one.index, number) if by_text else (number, one.index)
            answer = {"image": str(files[image])} if by_text else {"text": choices[text]}
            numbers = {"cosine": one.cosine, "probability": one.probability}
            known = {} if own is None else {"own": text in own[image]}
            answers.append(answer | numbers | known)
        name = {"text": choices[number]} if by_text else {"image": str(files[number])}
        rows.append(name | {"matches": answers})
    return rows


def _print(files: list[Path], choices: list[str], found: list[list[Match]], by_text: bool) -> None:
    from clipguide.report.table import format_table

    names, answers = ([*choices], [*map(str, files)]) if by_text else ([*map(str, files)], choices)
    rows = [
        [names[number] if place == 0 else "", one.probability, one.cosine, answers[one.index]]
        for number, matches in enumerate(found)
        for place, one in enumerate(matches)
    ]
    headers = ["text", "probability", "cosine", "image"]
    if not by_text:
        headers[0], headers[3] = "image", "text"
    typer.echo(format_table(headers, rows))
