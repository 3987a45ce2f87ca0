"""`clipguide web`: the page, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli import options as o
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note, say
from clipguide.cli.starter import need_scorer_beside


def web(
    model: o.Model = "starter",
    scorer: o.Scorer = None,
    judge: o.Judge = None,
    decoder: o.Decoder = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="What `clipguide index` made, or its DIR.")
    ] = None,
    folder: Annotated[
        list[Path] | None,
        typer.Option("--folder", help="A folder whose pictures can be ranked; repeatable."),
    ] = None,
    budget: o.Budget = None,
    steps: o.Steps = None,
    device: o.Device = None,
    force: o.AnyAutoencoder = False,
    host: Annotated[
        str,
        typer.Option("--host", help="Another address than this machine's own lets others in."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 7860,
) -> None:
    """Show a page that generates, chooses, searches and looks, until Ctrl-C."""
    need_scorer_beside(model, scorer)
    from clipguide.cli.index import HIDDEN
    from clipguide.extras import need
    from clipguide.generation.settings import settings_for
    from clipguide.retrieval.manifest import FILE

    need("gradio", "web")
    for one in folder or []:
        if not one.is_dir():
            raise Mistake(f"{one}: no such folder")
    if index is not None and not (index / FILE).exists():
        index = index / HIDDEN
        if not (index / FILE).exists():
            raise Mistake(f"{index.parent}: no index there: make one with `clipguide index`")
    plain = {"scorer": scorer, "judge": judge, "decoder": decoder, "budget": budget}
    plain |= {"steps": steps, "device": device, "any_autoencoder": force or None}
    given = {name: value for name, value in plain.items() if value is not None}
    from clipguide.web import Site, Sources, serve

    settings = settings_for(model, {"device": "auto", **given})
    site = Site(settings, Sources(index, tuple(folder or ())))
    page = serve(site, port, host)
    say(page.local_url)
    note("clipguide: loading the models meanwhile; Ctrl-C ends it")
    try:
        site.load().result()
        note("clipguide: the models are loaded")
        page.block_thread()
    finally:
        page.close()
        site.close()
