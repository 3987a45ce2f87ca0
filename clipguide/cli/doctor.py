"""`clipguide doctor`: what is installed, what is there, what works."""

from __future__ import annotations

from typing import Annotated

import typer

from clipguide.cli.output import JsonOption, emit


def doctor(
    fast: Annotated[bool, typer.Option("--fast", help="Do not run the models.")] = False,
    json: JsonOption = False,
) -> None:
    """Check the installation. Exit code 1 if something that should work does not."""
    from clipguide.cli.checkup import checkup

    checks = checkup(run_models=not fast)
    if json:
        emit([vars(check) for check in checks])
    else:
        from clipguide.report.table import format_table

        marks = {True: "ok", False: "BROKEN", None: "-"}
        rows = [(check.name, marks[check.ok], check.detail) for check in checks]
        typer.echo(format_table(["check", "", "detail"], rows))
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)
