"""`clipguide verify`: this installation against published numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import JsonOption, emit, note, say


def verify(
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="CLIPGUIDE_DATA", help="Folder of data. [$CLIPGUIDE_DATA]"),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Checks whose name has this in it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check this installation against published numbers, a line per check; exit code 1 on any FAIL.

    Nothing is fetched: a check that lacks weights or data is SKIPPED and says what gets them.
    """
    if data is not None and not data.is_dir():
        raise Mistake(f"{data}: no such folder (--data, or CLIPGUIDE_DATA)")
    from clipguide.cli.quiet import quiet_libraries
    from clipguide.evaluation import verification
    from clipguide.evaluation.verify_data import WITH_DATA
    from clipguide.evaluation.verify_offline import OFFLINE
    from clipguide.evaluation.verify_weights import WITH_WEIGHTS

    checks = [*OFFLINE, *WITH_DATA, *WITH_WEIGHTS]
    chosen = [check for check in checks if only is None or only in check.name]
    if not chosen:
        names = ", ".join(check.name for check in checks)
        raise Mistake(f"got --only {only!r}, expected a part of one of: {names}")
    quiet_libraries()
    verdicts: list[verification.Verdict] = []
    for check in chosen:
        verdicts.append(verification.verify(check, data))
        if not json:
            say(str(verdicts[-1]))
    counts = Counter(verdict.status for verdict in verdicts)
    if json:
        emit({"counts": counts, "checks": [verdict.to_json() for verdict in verdicts]})
    note(f"clipguide: {counts['PASS']} pass, {counts['FAIL']} fail, {counts['SKIPPED']} skipped")
    if counts["FAIL"]:
        raise typer.Exit(1)
