"""`clipguide demo`: eight prompts on the bundled starter model, unguided and guided by CLIP."""

from __future__ import annotations

from pathlib import Path

import typer

from clipguide.cli import options as o
from clipguide.cli.given import nested
from clipguide.cli.output import JsonOption
from clipguide.cli.starter import need_scorer_beside

# The colour-shape pairs of the last three are in no training caption of the starter.
PROMPTS = (
    "a red star left of a blue ring",
    "a yellow circle above a green square",
    "a purple triangle to the right of an orange star",
    "a cyan cross below a pink circle",
    "a green star with a red square to its left",
    "a red ring above a cyan triangle",
    "an orange square left of a purple circle",
    "a blue star below a yellow cross",
)


def demo(
    out: o.Out = Path("demo"),
    model: o.Model = "starter",
    scorer: o.Scorer = None,
    steps: o.Steps = None,
    strength: o.Strength = None,
    seed: o.Seed = 0,
    json: JsonOption = False,
) -> None:
    """Eight prompts unguided and guided by CLIP, a contact sheet, and a table of what it did.

    The same as `clipguide generate --compare` with these prompts: the model's own gradients and
    search; --strength 0 is the search alone.
    """
    given = nested({"scorer": scorer, "steps": steps}, {"strength": strength}, {})

    from clipguide.cli.run import RunRequest, SeedPlan, run
    from clipguide.generation.settings import settings_for

    need_scorer_beside(model, scorer)
    request = RunRequest(PROMPTS, SeedPlan(seed), out, compare=True)
    settings = settings_for(model, {"device": "auto", **given})
    typer.echo(run(settings, request).shown(as_json=json))
