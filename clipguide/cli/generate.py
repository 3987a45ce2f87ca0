"""`clipguide generate`: prompts to pictures."""

from __future__ import annotations

from pathlib import Path

import typer

from clipguide.cli import options as o
from clipguide.cli.given import nested, read_prompts, search_options_of, start_of, target_of
from clipguide.cli.mask import MaskGrow, found_mask
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import EngineOption, JsonOption
from clipguide.cli.starter import need_scorer_beside


def generate(
    prompts: o.Prompts = None,
    prompts_file: o.PromptsFile = None,
    model: o.Model = "starter",
    preset: o.Preset = None,
    scorer: o.Scorer = None,
    judge: o.Judge = None,
    reward: o.Reward = None,
    preview: o.PreviewReward = None,
    final: o.Final = None,
    strength: o.Strength = None,
    mode: o.Mode = None,
    normalize: o.Normalize = None,
    damping: o.Damping = None,
    reward_width: o.RewardWidth = None,
    window: o.Window = None,
    every: o.Every = None,
    views: o.Views = None,
    crop: o.Crop = None,
    view_noise: o.Noise = None,
    decoder: o.Decoder = None,
    search: o.Search = None,
    search_option: o.SearchOption = None,
    budget: o.Budget = None,
    until: o.Until = None,
    steps: o.Steps = None,
    cfg_scale: o.CfgScale = None,
    negative: o.Negative = None,
    init: o.Init = None,
    strength_init: o.StrengthInit = None,
    mask: o.Mask = None,
    segmenter: o.Segmenter = None,
    mask_grow: MaskGrow = 0,
    edit: o.Edit = None,
    sampler: o.Sampler = None,
    width: o.Width = None,
    height: o.Height = None,
    batch_size: o.BatchSize = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    force: o.AnyAutoencoder = False,
    seed: o.Seed = 0,
    same_seed: o.SameSeed = False,
    num: o.Count = 1,
    out: o.Out = Path("clipguide-out"),
    compare: o.Compare = False,
    no_metadata: o.NoMetadata = False,
    resume: o.Resume = False,
    engine: EngineOption = "here",
    json: JsonOption = False,
) -> None:
    """Make pictures that follow their prompts, guided by CLIP.

    Writes PNGs with the metadata to make them again (`clipguide reproduce`), results.jsonl and a
    contact sheet with scores. Defaults not shown depend on the model. Under `accelerate launch`
    or with --engine ray several processes share the pictures.
    """
    plain = {"scorer": scorer, "judge": judge, "reward": reward}
    plain |= {"preview": preview, "final": final}
    plain |= {"decoder": decoder, "search": search, "budget": budget, "until": until}
    plain |= {"steps": steps, "cfg_scale": cfg_scale, "negative": negative, "sampler": sampler}
    plain |= {"width": width, "height": height, "batch_size": batch_size}
    plain |= {"device": device, "dtype": dtype, "any_autoencoder": force or None}
    guidance = {"strength": strength, "mode": mode, "normalize": normalize}
    guidance |= {"damping": damping, "reward_width": reward_width}
    guidance |= {"window": window, "every": every}
    given = nested(plain, guidance, {"count": views, "crop": crop, "noise": view_noise})

    if search_option:
        given["search_options"] = search_options_of(search_option)
    if segmenter is not None:
        mask = found_mask(init, mask, segmenter, out, mask_grow)
    elif mask_grow:
        raise Mistake("got --mask-grow, expected --segmenter NAME and a phrase as --mask with it")
    given["start"] = start_of(init, strength_init, mask, edit)
    if edit is not None:
        prompts = prompts if prompts or prompts_file else target_of(edit)
        given.setdefault("reward", "directional")
        for stage in ("preview", "final"):
            given.setdefault(stage, None)
    asked = read_prompts(prompts, prompts_file)
    from clipguide.cli.run import RunRequest, SeedPlan, refuse_idle, run
    from clipguide.generation.preset import merged, read_preset
    from clipguide.generation.settings import settings_for
    from clipguide.workers import find_workers

    need_scorer_beside(model, scorer)
    seeds = SeedPlan(seed, num, same_seed)
    request = RunRequest(
        asked, seeds, out, compare=compare, metadata=not no_metadata, resume=resume
    )
    if preset is not None:
        given = merged(read_preset(preset, strength), given)
    settings = settings_for(model, {"device": "auto", **given}, num)
    refuse_idle(given["guidance"], settings)
    workers = find_workers(engine)
    done = run(settings, request, workers)
    if workers.main:
        typer.echo(done.shown(as_json=json))
