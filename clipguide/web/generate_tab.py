"""The tab Generate: a prompt to a picture with CLIP beside the one without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from clipguide.web.events import COMPUTED
from clipguide.web.live import Done, followed, wait_for
from clipguide.web.making import (
    EXAMPLE,
    WAYS,
    Pair,
    Preview,
    Wish,
    curve,
    generate,
    notice,
    pair_table,
)
from clipguide.web.messages import LOADING, sentence, told
from clipguide.web.sessions import Sessions, asks_who
from clipguide.web.site import Site

_HINT = '<p class="hint">Left without CLIP, right with it, from the same seed.</p>'


@dataclass(frozen=True)
class _Parts:
    """What the tab is made of, by what it is for.

    Attributes:
        inputs: prompt, alternatives, way, strength, seed.
        buttons: generate, cancel, the next seed.
        shown: preview, pair, scores, curve, two downloads.
    """

    inputs: list[Any]
    buttons: list[Any]
    shown: list[Any]


def generate_tab(gradio: Any, site: Site) -> None:
    """Builds the tab inside the open `gradio.Tab`."""
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=4, min_width=280):
            inputs, buttons = _inputs(gradio, site), _buttons(gradio)
        with gradio.Column(scale=6, min_width=280):
            shown = _shown(gradio)
    _connect(gradio, site, _Parts(inputs, buttons, shown))


def _inputs(gradio: Any, site: Site) -> list[Any]:
    starter = site.settings.model == "starter"
    prompt = gradio.Textbox(
        label="Prompt", value=EXAMPLE if starter else "", lines=2, max_lines=6,
        max_length=site.limits.letters, elem_id="prompt",
        info="the starter knows scenes of coloured shapes" if starter else None,
    )  # fmt: skip
    alternatives = gradio.Textbox(
        label="Alternatives", lines=1, max_lines=6, elem_id="alternatives",
        info="what the picture must not be taken for, one a line; empty: found by rules",
    )  # fmt: skip
    way = gradio.Radio(WAYS, value=WAYS[0], label="Way", elem_id="way")
    with gradio.Row():
        strength = gradio.Number(
            value=site.settings.guidance.strength or None, label="Strength",
            minimum=0, info="of gradients", elem_id="strength", min_width=100,
        )  # fmt: skip
        seed = gradio.Number(
            value=0, label="Seed", precision=0, minimum=0, info="whole number",
            elem_id="seed", min_width=100,
        )  # fmt: skip
    return [prompt, alternatives, way, strength, seed]


def _buttons(gradio: Any) -> list[Any]:
    with gradio.Row():
        go = gradio.Button("Generate", variant="primary", elem_id="go")
        cancel = gradio.Button("Cancel", elem_id="cancel", interactive=False)
    again = gradio.Button("Same again with seed + 1", elem_id="again")
    return [go, cancel, again]


def _shown(gradio: Any) -> list[Any]:
    preview = gradio.Image(
        label="While it is made", visible=False, interactive=False, elem_id="preview",
        height=384, buttons=[],
    )  # fmt: skip
    pair = gradio.ImageSlider(
        label="Without CLIP | with CLIP", interactive=False, elem_id="pair", height=384,
        buttons=["fullscreen"],
    )  # fmt: skip
    table = gradio.HTML(_HINT, elem_id="scores")
    lines = gradio.HTML("", elem_id="curve")
    with gradio.Row():
        guided = gradio.DownloadButton("Download with CLIP", elem_id="save", interactive=False)
        plain = gradio.DownloadButton("Download without", elem_id="save-plain", interactive=False)
    return [preview, pair, table, lines, guided, plain]


def _connect(gradio: Any, site: Site, parts: _Parts) -> None:
    """What happens at which click."""
    sessions = Sessions()
    go, cancel, again = parts.buttons
    prompt, *_, seed = parts.inputs
    preview, pair, *_ = parts.shown

    @asks_who
    def run(
        prompt: str, alternatives: str, way: str, strength: float | None, seed: float | None,
        request: Any,
    ) -> Iterator[list[Any]]:  # fmt: skip
        """A picture that follows the prompt, and the plain one of the same seed.

        Yields previews while it is made; the last has both pictures, their scores and the files.
        """
        with told():
            wish = _wish(prompt, alternatives, way, strength, seed or 0).checked(site)
            if said := notice(site, wish.prompt):
                gradio.Warning(sentence(said))
            yield _starting(gradio, site)
            seen: list[Preview] = []
            with sessions.running(str(request.session_hash)) as stop:
                wait_for(site.load(), stop)
                for news in followed(partial(generate, site, wish), stop):
                    if isinstance(news, Done):
                        yield _finished(gradio, news.result, seen)
                    else:
                        seen.append(news)
                        yield _going_on(gradio, site, news, seen)

    @asks_who
    def off(request: Any) -> Any:
        sessions.call_off(str(request.session_hash))
        return gradio.update(value="Cancelling", interactive=False)

    @asks_who
    def gone(request: Any) -> None:
        sessions.call_off(str(request.session_hash))

    def next_seed(seed: float | None) -> float:
        return (seed or 0) + 1

    def rest() -> list[Any]:
        seen = [gradio.update(visible=False), gradio.update(visible=True)]
        return [*seen, _resting(gradio)]

    private: dict[str, Any] = {"api_visibility": "private"}
    shown = [*parts.shown, cancel]
    made = [
        gradio.on(
            [go.click, prompt.submit], run, parts.inputs, shown, api_name="generate", **COMPUTED
        ),
        again.click(next_seed, seed, seed, queue=False, **private).success(
            run, parts.inputs, shown, **private, **COMPUTED
        ),
    ]
    for one in made:  # an error, a cancel
        one.failure(rest, None, [preview, pair, cancel], queue=False, **private)
    cancel.click(off, None, cancel, queue=False, **private)
    gradio.context.Context.root_block.unload(gone)


def _resting(gradio: Any) -> Any:
    """The button Cancel where there is nothing to cancel."""
    return gradio.update(value="Cancel", interactive=False)


def _wish(prompt: str, alternatives: str, way: str, strength: float | None, seed: float) -> Wish:
    if not float(seed).is_integer():
        raise ValueError(f"got seed {seed}, expected a whole number")
    others = tuple(line for line in (alternatives or "").split("\n") if line.strip())
    return Wish(prompt or "", others, way, strength, int(seed))


def _starting(gradio: Any, site: Site) -> list[Any]:
    state = "Sampling." if site.ready else LOADING
    return [
        gradio.update(visible=True, value=None, label="While it is made"),
        gradio.update(visible=False),
        f'<p class="hint">{state}</p>',
        "",
        gradio.update(interactive=False),
        gradio.update(interactive=False),
        gradio.update(value="Cancel", interactive=True),
    ]


def _going_on(gradio: Any, site: Site, news: Preview, seen: list[Preview]) -> list[Any]:
    which = "With CLIP" if news.guided else "Without CLIP"
    same = gradio.update()
    file = site.shelf.put(news.image)
    preview = gradio.update(value=file, label=f"{which}, step {news.call}", visible=True)
    return [preview, same, same, curve(seen), same, same, same]


def _finished(gradio: Any, pair: Pair, seen: list[Preview]) -> list[Any]:
    files = (str(pair.unguided.file), str(pair.guided.file))
    return [
        gradio.update(visible=False),
        gradio.update(value=files, visible=True),
        pair_table(pair),
        curve(seen),
        gradio.update(value=files[1], interactive=True),
        gradio.update(value=files[0], interactive=True),
        _resting(gradio),
    ]
