"""`clipguide caption`: captions of a folder of pictures, printed or written beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake, need_png
from clipguide.cli.output import DeviceOption, JsonOption, emit, keeping, note
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from PIL import Image

    from clipguide.data.caption_files import CaptionFile
    from clipguide.language.captioner import Captioner

CaptionerOption = Annotated[
    str,
    typer.Option(
        "--captioner",
        help="starter (its scenes), hf:REPO_OR_DIR (BLIP, GIT, vision-encoder-decoder, "
        "image-text-to-text), or a folder that `clipguide train` made.",
    ),
]


def caption(
    images: ImagesArgument,
    captioner: CaptionerOption,
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Write a .txt beside each picture.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Add to a metadata.jsonl (file_name, text) or a .csv."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace sidecars that are there.")
    ] = False,
    method: Annotated[str, typer.Option("--method", help="beam, greedy or sample.")] = "beam",
    count: Annotated[int, typer.Option("--count", help="Captions to choose from.")] = 1,
    rerank: Annotated[
        str | None, typer.Option("--rerank", help="The scorer that chooses among them.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of --method sample.")] = 0,
    attention: Annotated[
        Path | None,
        typer.Option(
            "--attention", help="A .png: where the captioner looked for each word it writes now."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Caption pictures. What has a caption already is left alone, so a stopped run goes on."""
    from clipguide.clip.loading import load_scorer
    from clipguide.language.best_caption import request_of
    from clipguide.language.loading import load_captioner

    quiet_libraries(diffusers=False)
    request = request_of(count, method, rerank is not None)
    if attention is not None:
        need_png("--attention", attention)
        if method == "sample" or rerank is not None:
            raise Mistake("got --attention, which shows what beams or greedy find: leave out "
                          "--method sample and --rerank")  # fmt: skip
    folder = Folder(images)
    targets = _targets(folder, sidecar, out, overwrite)
    todo, before = _todo(folder, targets)
    rows: list[dict[str, Any]] = []
    if todo:
        model = load_captioner(captioner, device=device)
        if attention is not None:
            _check_looks(model)
        scorer = None if rerank is None else load_scorer(rerank, device=device)
        folder.files = todo
        with keeping(lambda: _kept(targets, len(rows), again=overwrite)):
            for batch in folder.batches():
                found = _captions(batch, model, (request, seed), scorer, folder.bad)
                _add(targets, found)
                rows += found
        if attention is not None and rows:
            paths = [Path(row["image"]) for row in rows]
            _draw_attention(attention, model, paths, request.width)
    else:
        drawn = "" if attention is None else f", {attention} is not drawn"
        note(f"clipguide: all {before} pictures have a caption already{drawn}")
    data = {"captioner": captioner, "rerank": rerank, "method": method, "captioned_before": before}
    if json:
        emit(with_bad(data | {"results": rows}, folder))
    elif rows:
        _print(rows, rerank)


def _targets(
    folder: Folder, sidecar: bool, out: Path | None, overwrite: bool
) -> dict[str, CaptionFile]:
    """Where captions go, by the option."""
    from clipguide.data.caption_files import KINDS, Sidecars

    if overwrite and not sidecar:
        raise Mistake("got --overwrite, expected --sidecar with it")
    found: dict[str, CaptionFile] = {}
    if sidecar:
        beside = Sidecars(overwrite)
        beside.check(folder.files)
        found["--sidecar"] = beside
    if out is not None:
        if out.suffix.lower() not in KINDS:
            raise Mistake(f"got --out {out}, expected a name that ends with one of {[*KINDS]}")
        found["--out"] = KINDS[out.suffix.lower()](out)
    return found


def _todo(folder: Folder, targets: dict[str, CaptionFile]) -> tuple[list[Path], int]:
    """The pictures that some target has no caption of, and how many have all."""
    from clipguide.data.caption_files import SIDECAR, texts_beside

    if not targets:
        return folder.files, 0
    done = [target.done(folder.files) for target in targets.values()]
    whole = set[Path].intersection(*done)
    if "--sidecar" in targets:
        others = [one for one in done[0] if not one.with_suffix(SIDECAR).exists()]
        if others:
            beside = texts_beside(others[0])[0].name
            told = f"{len(others)} pictures have a text of another tool, e.g. {beside}"
            note(f"clipguide: {told}; --overwrite writes a {SIDECAR} all the same")
    return [one for one in folder.files if one not in whole], len(whole)


def _captions(
    batch: Sequence[tuple[Path, Image.Image]], model: Captioner, how: tuple[Any, int],
    scorer: Any, bad: list[dict[str, str]],
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of a batch; a caption that says nothing is not one: its picture is among the bad."""
    from clipguide.language.best_caption import caption_all, choose
    from clipguide.language.captioner import BATCH

    rows: list[dict[str, Any]] = []
    for start in range(0, len(batch), BATCH):
        some = batch[start : start + BATCH]
        written = caption_all(model, [image for _, image in some], *how)
        for (path, image), several in zip(some, written, strict=True):
            chosen = choose(image, several, scorer)
            if chosen.doubt:
                bad.append({"image": str(path), "reason": chosen.doubt})
                continue
            rows.append(
                {
                    "image": str(path), "caption": chosen.caption.text,
                    "log_prob": chosen.caption.log_prob, "tokens": chosen.caption.tokens,
                    "score": chosen.score,
                }
            )  # fmt: skip
    return rows


def _add(targets: dict[str, CaptionFile], rows: Sequence[dict[str, Any]]) -> None:
    texts = {Path(row["image"]): str(row["caption"]) for row in rows}
    for target in targets.values():
        missing = [path for path in texts if path not in target.done([*texts])]
        if missing:
            target.add({path: texts[path] for path in missing})


def _kept(targets: dict[str, CaptionFile], count: int, *, again: bool) -> str:
    """What an interruption leaves."""
    if not targets:
        return "nothing is written without --sidecar or --out"
    then = "goes on, without --overwrite" if again else "goes on"
    return f"{count} captions are written; the same command {then}"


def _check_looks(model: Captioner) -> None:
    """Mistake or ValueError for a captioner that does not look at places."""
    from PIL import Image

    from clipguide.language.trained_captioner import TrainedCaptioner

    if not isinstance(model, TrainedCaptioner):
        raise Mistake(f"{model.name}: does not look at places, leave out --attention")
    model.look(Image.new("RGB", (32, 32)))


def _draw_attention(file: Path, model: Any, pictures: Sequence[Path], beams: int) -> None:
    from clipguide.images import load_image
    from clipguide.report.attention_picture import attention_sheet
    from clipguide.report.metadata import save_drawing

    rows: list[Any] = []
    for path in pictures:
        image = load_image(path)
        looked = model.look(image, beams)
        rows.append((" ".join(looked.words), image, looked.words, looked.places))
    save_drawing(attention_sheet(rows), file, [str(path) for path in pictures])
    note(f"clipguide: {file}: where it looked, a row a picture")


def _print(rows: Sequence[dict[str, Any]], rerank: str | None) -> None:
    from clipguide.report.table import format_table

    cells = [(row["image"], row["log_prob"], row["score"], row["caption"]) for row in rows]
    headers = ["image", "log p", rerank or "score", "caption"]
    if rerank is None:
        cells = [(cell[0], cell[1], cell[3]) for cell in cells]
        headers = ["image", "log p", "caption"]
    typer.echo(format_table(headers, cells, digits=3))
