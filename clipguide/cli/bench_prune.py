"""`clipguide bench prune`: what pruning gains over best of N, on rewards of previews by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake, need_free
from clipguide.cli.output import DeviceOption, JsonOption, emit, note, say

if TYPE_CHECKING:
    from clipguide.search.preview_rewards import PreviewRewards

ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        help="An .npz file of rewards of x0 previews, arrays (prompts, pictures, steps), the last "
        "step the finished picture. No model runs.",
    ),
]
ArrayOption = Annotated[
    str | None,
    typer.Option(
        "--array",
        help="Of --replay: frozen (a scorer as published) or noise_aware (one tuned on previews). "
        "[the one in the file]",
    ),
]
BudgetOption = Annotated[
    list[int] | None,
    typer.Option(
        "--budget",
        min=1,
        help="Trajectories paid for; may be repeated. [2 4 8 16; of them what --pictures allow]",
    ),
]
PipelineOption = Annotated[
    str | None,
    typer.Option("--pipeline", help="Record your own: starter, a directory, or a hub id."),
]
ScorerOption = Annotated[
    str | None, typer.Option("--scorer", help="The CLIP that is asked. [the pipeline's]")
]
PromptsOption = Annotated[
    Path | None, typer.Option("--prompts", help="Prompts to record: a line each, .tsv, .jsonl.")
]
RewardOption = Annotated[
    str | None, typer.Option("--reward", help="As of `generate`. [the pipeline's]")
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", min=2, help="Denoising steps. [the pipeline's]")
]
SaveOption = Annotated[
    Path, typer.Option("--save", help="Where what was recorded goes, to be replayed again.")
]
TRIED = [2, 4, 8, 16]


def prune(
    replay: ReplayOption = None,
    array: ArrayOption = None,
    budget: BudgetOption = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="Of --replay: try every schedule, name the best.")
    ] = False,
    pipeline: PipelineOption = None,
    scorer: ScorerOption = None,
    prompts: PromptsOption = None,
    reward: RewardOption = None,
    pictures: Annotated[int, typer.Option("--pictures", min=2, help="Of each prompt.")] = 32,
    steps: StepsOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="At once.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of each prompt's first picture.")] = 0,
    device: DeviceOption = "cpu",
    save: SaveOption = Path("preview-rewards.npz"),
    json: JsonOption = False,
) -> None:
    """Compare best-of-N with --search prune on rewards that were recorded step by step.

    Replays a file, or records one first: --pipeline, --scorer and --prompts, which costs every
    picture and a preview after each of its steps, once. Then every schedule is tried for nothing,
    on every second prompt, and the best is printed with what it gains on the others.

    Printed is the final reward of the picture chosen, in deviations within its prompt: the mean
    over prompts and 24 random orders of the pictures, at equal denoiser calls.
    """
    _check_array(array)
    if (replay is None) == (pipeline is None):
        raise Mistake("give either --replay FILE, or --pipeline with --prompts to record one")
    if replay is not None:
        from clipguide.search.preview_rewards import load_preview_rewards

        rewards = load_preview_rewards(replay, array)
    else:
        if prompts is None:
            raise Mistake("give --prompts FILE: what --pipeline is asked for")
        need_free("--save", save)
        given = {"model": pipeline, "scorer": scorer, "reward": reward, "steps": steps}
        given |= {"batch_size": batch_size, "device": device}
        known = {name: value for name, value in given.items() if value is not None}
        rewards = _record(known, prompts, pictures, seed, save)
    _print(rewards, budget, as_json=json, choose=choose or replay is None)


def _record(
    given: dict[str, Any], prompts: Path, pictures: int, seed: int, save: Path
) -> PreviewRewards:
    """Runs the pipeline, and keeps what its reward says in a file."""
    from clipguide.cli.quiet import quiet_libraries
    from clipguide.data.prompt_files import read_prompts
    from clipguide.generation.defaults import resolve_settings
    from clipguide.generation.models import load_models
    from clipguide.generation.preview_recording import record_previews
    from clipguide.generation.settings import settings_for
    from clipguide.search.preview_rewards import save_preview_rewards

    asked = read_prompts(prompts)
    settings = settings_for(given["model"], {"search": "prune", **given})
    quiet_libraries()
    note(f"clipguide: loading {settings.model}")
    models = load_models(settings)
    models.pipe.set_progress_bar_config(disable=True)
    settings, chosen = resolve_settings(settings, models.pipe)
    if chosen:
        note(chosen)

    def done(count: int) -> None:
        note(f"clipguide: {count} of {len(asked)} prompts")

    rewards = record_previews(models, settings, asked, pictures, seed=seed, on_prompt=done)
    save_preview_rewards(save, rewards)
    note(f"clipguide: wrote {save} (--replay {save} shows it again)")
    return rewards


def _print(
    rewards: PreviewRewards, budgets: list[int] | None, *, as_json: bool, choose: bool
) -> None:
    from clipguide.search.pruning_replay import affordable, choose_schedule, compare_default

    asked = budgets or affordable(rewards, TRIED) or TRIED[:1]
    rows = compare_default(rewards, asked)
    use = choose_schedule(rewards, asked) if choose else None
    if as_json:
        kept = ("best_of", "default")
        shown = {key: {name: row[name] for name in kept} for key, row in rows.items()}
        emit({"budgets": shown} | ({} if use is None else {"use": use}))
        return
    from clipguide.report.table import format_table

    columns = ["budget", "best_of", "default", "gain", "95 % interval", "looks", "samples"]
    for line in format_table(columns, [_row(key, row) for key, row in rows.items()]).splitlines():
        say(line)
    if use is not None:
        say(_advice(use))


def _check_array(array: str | None) -> None:
    if array not in (None, "frozen", "noise_aware"):
        raise Mistake(f"got --array {array!r}, expected frozen or noise_aware")


def _row(budget: str, row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    figures = [f"{row[name]:.3f}" for name in ("best_of", "default", "gain")]
    looks, samples = (" ".join(map(str, row[name])) for name in ("looks", "samples"))
    return [budget, *figures, f"{low:.3f} to {high:.3f}", looks or "none", samples]


def _advice(use: dict[str, Any]) -> str:
    """The schedule to use, in a line."""
    if use["at"] is None:
        return "use best_of: no schedule gains over it on these prompts"
    low, high = use["interval"]
    return (
        f"use Prune(at={use['at']}, keep={[round(share, 3) for share in use['keep']]}): gains "
        f"{use['gain']:.3f} ({low:.3f} to {high:.3f}) over best_of on the prompts that it was not "
        "chosen on"
    )
