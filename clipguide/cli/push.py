"""`clipguide push`: a custom pipeline, a scorer or a Space, to the Hub or into a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import JsonOption, emit, note, say


def push(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="A .py file of a custom pipeline, a scorer's folder, or space."
        ),
    ],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Of the Hub.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be sent; nothing leaves here.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the files into this new folder instead.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Others can see it.")] = False,
    json: JsonOption = False,
) -> None:
    """Put a pipeline, a scorer or the page on the Hub, as the user who is logged in there."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise Mistake(f"got {repository!r}, expected USER/NAME")
    if out is not None and out.exists() and any(out.iterdir()):
        raise Mistake(f"{out}: there is something in it, which is kept: choose another folder")
    from clipguide.generation.publish import publication

    published = publication(what)
    sent: str | None = None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        files = published.listing(out)
    elif dry_run:
        with tempfile.TemporaryDirectory() as folder:
            files = published.listing(Path(folder))
    else:
        from clipguide.clip.hub import push as upload

        files = []
        sent = upload(repository, published.write, private=not public, kind=published.kind)
    if json:
        rows = [{"file": name, "bytes": size} for name, size in files]
        emit({"repository": repository, "kind": published.kind, "files": rows, "sent": sent})
        return
    for name, size in files:
        say(f"{size:>12,}  {name}")
    if sent is not None:
        say(sent)
    elif out is not None:
        note(f"clipguide: wrote {len(files)} files into {out}; nothing was sent")
    else:
        note(f"clipguide: {len(files)} files would go to {repository} ({published.kind})")
