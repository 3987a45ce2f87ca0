"""`clipguide view`: the reports of a folder of runs in this machine's browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note, say


def view(
    runs: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one of runs.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 0,
) -> None:
    """Show the reports of `eval run` on 127.0.0.1 until Ctrl-C; nobody else can see them."""
    if not runs.is_dir():
        raise Mistake(f"{runs}: no such folder")
    from clipguide.report.viewer import HOST, make_server, reports_in

    with make_server(runs, port) as server:
        say(f"http://{HOST}:{server.server_port}/")
        note(f"clipguide: {len(reports_in(runs))} reports of {runs}; Ctrl-C ends it")
        server.serve_forever()
