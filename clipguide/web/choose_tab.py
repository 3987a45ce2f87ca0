"""The tab Choose: pictures that are there, best first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipguide.images import load_image
from clipguide.texts import printable
from clipguide.web.choosing import choice_table, choose, pictures_of
from clipguide.web.events import COMPUTED
from clipguide.web.messages import told
from clipguide.web.shelf import Shelf
from clipguide.web.site import Site

EMPTY = (
    '<p class="hint">Drop some pictures and write what they should show: the best comes first.</p>'
)
THUMBNAIL = (384, 384)


def choose_tab(gradio: Any, site: Site) -> None:
    """Builds the tab inside the open `gradio.Tab`."""
    roles = _roles(site)
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=4, min_width=280):
            files = gradio.File(
                label="Pictures", file_count="multiple", file_types=["image"], height=180,
                elem_id="choose-files",
            )  # fmt: skip
            folder = gradio.Dropdown(
                ["", *site.sources.names], value="", label="or a folder of this machine",
                visible=bool(site.sources.folders), elem_id="choose-folder",
            )  # fmt: skip
            prompt = gradio.Textbox(
                label="Prompt", max_length=site.limits.letters, elem_id="choose-prompt"
            )
            scorers = gradio.CheckboxGroup(
                roles, value=roles[:1], label="Scorers",
                info="the judge has no say in pictures; the first decides the order",
                elem_id="choose-scorers",
            )  # fmt: skip
            diversity = gradio.Slider(
                0, 1, value=0, step=0.05, label="Diversity",
                info="0: by score alone; more: near copies come late", elem_id="choose-diversity",
            )  # fmt: skip
            go = gradio.Button("Rank", variant="primary", elem_id="choose-go")
        with gradio.Column(scale=6, min_width=280):
            gallery = gradio.Gallery(
                label="Best first", columns=3, height="auto", elem_id="choose-gallery",
                object_fit="contain", buttons=["fullscreen"], elem_classes="gallery-of",
            )  # fmt: skip
            table = gradio.HTML(EMPTY, elem_id="choose-table")

    def rerank(
        images: list[str] | None, prompt: str, scorer: list[str], diversity: float, folder: str
    ) -> tuple[list[Any], str]:
        """Pictures ordered by how well they follow the prompt, best first.

        Returns the pictures with rank, name and score, and a table of all scores.
        """
        with told():
            given = [Path(file) for file in images or []]
            given += pictures_of(site, folder) if folder else []
            choice = choose(site, prompt or "", given, _loaded(site, scorer), float(diversity))
            first = next(iter(choice.scores.values()))
            cards = [
                (thumbnail(site.shelf, file), f"{place + 1}.  {value:.3f}  {printable(file.name)}")
                for place, (file, value) in enumerate(zip(choice.files, first, strict=True))
            ]
            return cards, choice_table(choice)

    gradio.on(
        [go.click, prompt.submit], rerank, [files, prompt, scorers, diversity, folder],
        [gallery, table], api_name="rerank", **COMPUTED,
    )  # fmt: skip


def _roles(site: Site) -> list[str]:
    """Scorers as the page calls them before any is loaded: "guide" reads pictures by the guiding
    scorer or its teacher, "judge" had no say."""
    names = [name for name in (site.settings.scorer, site.settings.judge) if name is not None]
    return ["guide", "judge"][: len(names)]


def _loaded(site: Site, roles: list[str] | None) -> list[str]:
    """The names of those scorers."""
    known = [*site.scorers]
    places = {"guide": 0, "judge": len(known) - 1}
    return [known[places[role]] if role in places else role for role in roles or []]


def thumbnail(shelf: Shelf, file: Path) -> str:
    """The file of a smaller picture. ImageError: it cannot be read."""
    image = load_image(file).copy()
    image.thumbnail(THUMBNAIL)
    return shelf.put(image, ".webp")
