"""`clipguide filter`: what of a data set is kept, by rules, each with what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.classify import read_templates
from clipguide.cli.filter_output import print_summary, rows_of, summary_of, write_page
from clipguide.cli.filter_rules import AUTO, Asked, Rules, Threshold, threshold_of
from clipguide.cli.filter_safety import unsafe_items
from clipguide.cli.filter_source import Given, Indexing, answers_of, given_of
from clipguide.cli.index import HIDDEN, EngineName, engine_of
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, keeping, note
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.search import WhereOption
from clipguide.cli.starter import heed_labels, scorer_of_new_index

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.clip.scorer import Scorer
    from clipguide.retrieval.items import Items


def filter(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR | CAPTIONS", help="A folder, or a TSV, CSV or JSON of its captions."
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Of a captions file: the images' folder. [its own]"),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help='Phrase of what to keep: "an animal".')
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help='Phrase of what to drop: "a vehicle".')
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            "--margin",
            help="Least cosine with --keep less that with --drop, the best of each; auto. [0; auto "
            "with --labels]",
        ),
    ] = None,
    templates: Annotated[
        str,
        typer.Option(
            "--templates", help="As of classify: openai, a text with {}. [phrases as they are]"
        ),
    ] = "label",
    min_agreement: Annotated[
        str | None,
        typer.Option(
            "--min-agreement",
            help="Least cosine of a caption with its image; auto. It is of this scorer alone: "
            "LAION-5B took 0.28 of open_clip:ViT-B-32/openai.",
        ),
    ] = None,
    min_aesthetic: Annotated[
        str | None, typer.Option("--min-aesthetic", help="Least rating of about 1 to 10; auto.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", help="laion-b32, laion-l14, sac-l14, a .safetensors: for that scorer."
        ),
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option("--duplicates", help="Cosine from which an image repeats another: 0.95."),
    ] = None,
    min_side: Annotated[
        int | None, typer.Option("--min-side", min=1, help="Least width and height, pixels.")
    ] = None,
    where: WhereOption = None,
    safety: Annotated[
        str | None,
        typer.Option(
            "--safety",
            help="diffusers' safety checker: CompVis/stable-diffusion-safety-checker or a folder.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Examples, a TSV or CSV of image and keep (yes or no)."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option("--scorer", help="The CLIP. [the index's own; starter for its pictures]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A .txt of kept names; .csv, .jsonl, .parquet of all."),
    ] = None,
    copy: Annotated[
        Path | None, typer.Option("--copy", help="Copy what is kept into this folder.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="An .html of both sides of each threshold.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="Where vectors are kept. [inside the folder]")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="Embed here, or on Ray Data workers.")
    ] = EngineName.LOCAL,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")] = 32,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Keep and drop images by rules: phrases, captions, ratings, repeats, size. Deletes nothing."""
    asked = Asked(
        tuple(keep or ()), tuple(drop or ()), _margin(margin, labels, min_agreement, min_aesthetic),
        read_templates(templates), threshold_of("--min-agreement", min_agreement),
        threshold_of("--min-aesthetic", min_aesthetic), head, duplicates, min_side,
        tuple(where or ()), safety,
    )  # fmt: skip
    asked.check(labels is not None)
    targets = Targets(out, copy, page)
    targets.check()
    if not keep and (margin is not None or templates != "label"):
        raise Mistake("got --margin or --templates, expected --keep and --drop with them")
    given = given_of(source, images, asked.agreement is not None)
    targets.check_copy(given.root)
    _check_there(asked, labels)
    to = index or given.root / HIDDEN
    embed = engine_of(engine)
    indexing = Indexing(to, _scorer(scorer, to, given.root, asked, device), embed, batch_size)
    filtering = _Filtering(asked, given, indexing, "ray" if engine is EngineName.RAY else "here")
    found, bad = filtering.rules(labels)
    data = targets.write(found, given.root) | {"scorer": indexing.scorer.name, "bad": bad}
    if json:
        emit(data)
    else:
        print_summary(data)


def _margin(text: str | None, labels: Path | None, *others: str | None) -> Threshold:
    """What was given; by default what the examples say where no other threshold asks them, or 0."""
    asks = labels is not None and AUTO not in others
    return threshold_of("--margin", text or (AUTO if asks else "0")) or 0.0


def _check_there(asked: Asked, labels: Path | None) -> None:
    """What the rules need is there and can be read: said before anything is embedded."""
    from clipguide.language.safety import checkpoint_file
    from clipguide.retrieval.filters import parse_filter
    from clipguide.rewards.aesthetic import load_aesthetic_head

    if labels is not None and not labels.is_file():
        raise Mistake(f"{labels}: no such file")
    for condition in asked.where:
        parse_filter(condition)
    if asked.head is not None:
        load_aesthetic_head(asked.head)
    if asked.safety is not None:
        checkpoint_file(asked.safety)


def _scorer(name: str | None, to: Path, root: Path, asked: Asked, device: str) -> Scorer:
    """The model that was given, the index's own, or the starter for its own pictures."""
    from clipguide.clip.loading import load_scorer
    from clipguide.retrieval.identity import find_manifest

    known = find_manifest(to)
    chosen = scorer_of_new_index(name, root) if known is None else name or known.scorer
    heed_labels(chosen, (*asked.keep, *asked.drop))
    quiet_libraries(diffusers=False)
    return load_scorer(chosen, device=device)


@dataclass(frozen=True)
class Targets:
    """Where results go; what is there is kept, but for the page."""

    out: Path | None
    copy: Path | None
    page: Path | None

    def check(self) -> None:
        """Mistake for names that nothing can be written to."""
        from clipguide.data.keep_lists import WRITERS
        from clipguide.extras import need

        if self.out is not None:
            suffix = self.out.suffix.lower()
            if suffix not in WRITERS:
                choices = ", ".join(WRITERS)
                raise Mistake(f"got --out {self.out}, expected a name that ends with {choices}")
            if self.out.exists():
                told = "which is there and is kept: choose another name"
                raise Mistake(f"got --out {self.out}, {told}")
            if suffix == ".parquet":
                need("pyarrow.parquet", "scale")
        if self.page is not None and self.page.suffix.lower() != ".html":
            raise Mistake(f"got --page {self.page}, expected a name that ends with .html")

    def check_copy(self, root: Path) -> None:
        """ValueError for copies inside the folder they are made of."""
        from clipguide.data.keep_lists import copies_of

        if self.copy is not None:
            copies_of([], root, self.copy)

    def write(self, found: Rules, root: Path) -> dict[str, Any]:
        """All of it; returns how many each rule takes, and where things are.

        What is never written over comes last: the command that a run was stopped in goes on.
        """
        from clipguide.data.keep_lists import WRITERS, copies_of, copy_all
        from clipguide.retrieval.rules import kept_by_all

        kept = kept_by_all(found.rules)
        data = summary_of(found, kept)
        if self.page is not None:
            write_page(self.page, found, data["kept"], root)
            data["page"] = str(self.page)
        if self.copy is not None:
            names = zip(found.items.paths, kept.tolist(), strict=True)
            copies = copies_of([root / path for path, stays in names if stays], root, self.copy)
            with keeping(lambda: f"{self.copy} has a part; the same command goes on"):
                new = copy_all(copies)
            note(f"clipguide: copied {new} files to {self.copy}, {len(copies) - new} were there")
            data |= {"copy": str(self.copy), "copied": new}
        if self.out is not None:
            WRITERS[self.out.suffix.lower()](self.out, rows_of(found, kept, root))
            note(f"clipguide: wrote {self.out}")
            data["out"] = str(self.out)
        return data


@dataclass(frozen=True)
class _Filtering:
    """A run: its rules, its images, how they are embedded, who looks for the safety checker."""

    asked: Asked
    given: Given
    indexing: Indexing
    workers: str

    def rules(self, labels: Path | None) -> tuple[Rules, dict[str, str]]:
        """What each rule keeps, and why some files are not filtered."""
        from clipguide.retrieval.items import items_of

        index, bad = self.indexing.images(self.given.root)
        items = items_of(index, self.given.texts.keys() if self.given.only else None)
        if not items.paths:
            raise Mistake(f"{self.given.root}: none of the images with a caption can be read")
        answers = {} if labels is None else answers_of(labels, self.given.root, items)
        found = Rules(index, items, answers)
        self._ask(found)
        return found, bad

    def _ask(self, found: Rules) -> None:
        asked, scorer = self.asked, self.indexing.scorer
        if asked.keep:
            found.phrases(asked, scorer)
        if asked.agreement is not None:
            captions = self.indexing.captions(self.given, found.items)
            found.agreement(asked.agreement, scorer.name, captions)
        if asked.aesthetic is not None and asked.head is not None:
            found.aesthetic(asked.aesthetic, asked.head)
        if asked.side is not None:
            found.side(asked.side)
        found.where(asked.where)
        if asked.safety is not None:
            found.safety(asked.safety, self._unsafe(asked.safety, found.items))
        if asked.duplicates is not None:  # the last: it asks what the others keep
            found.duplicates(asked.duplicates)

    def _unsafe(self, name: str, items: Items) -> Tensor:
        from clipguide.workers import find_workers

        to = self.indexing.to
        file = to.with_name(f"{to.name}-safety.jsonl")
        return unsafe_items(items, self.given.root, name, file, find_workers(self.workers))
