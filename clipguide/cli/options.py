"""The options of `generate`, one name each."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer


def parse_seed(text: str | int) -> int:
    """A number, or `random`: one that nobody chose; it is written into every picture."""
    if text == "random":
        return secrets.randbelow(2**32)
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"got {text!r}, expected a number or random") from None


def _option(*names: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, metavar=metavar)


Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT...", help="What to show; - reads a prompt a line from stdin."),
]
PromptsFile = Annotated[
    Path | None,
    _option(
        "--prompts",
        text="Prompts of a file (- is stdin): a line each, or the column prompt of a .tsv, .csv, "
        ".jsonl.",
    ),
]
Model = Annotated[str, _option("--model", text="starter, a directory, or a hub id.")]
Scorer = Annotated[
    str | None,
    _option(
        "--scorer",
        text="The CLIP that guides: open_clip:ARCH/TAG, hf:REPO, DIR, starter, starter:latent. "
        "[starter:latent for the starter]",
    ),
]
Preset = Annotated[
    str | None,
    _option(
        "--preset",
        text="Settings that others can be given over: dps, flowchef, freedom, lgd, mpgd, tilted, "
        "universal (published, with --strength), a .toml or .json file, or a PNG by generate.",
    ),
]
Judge = Annotated[
    str | None,
    _option(
        "--judge",
        text="Only scores: a CLIP, vqa:MODEL, itm:MODEL, caption-back:CAPTIONER, "
        "log-prob:CAPTIONER. [starter:judge for the starter]",
    ),
]
Reward = Annotated[
    str | None,
    _option(
        "--reward",
        text="cosine to the prompt; contrast: against its swapped words too, or against texts that "
        "are named, 'contrast:\"a cat|two dogs\"'; or a weighted sum of "
        "cosine, contrast, parts, aesthetic:HEAD, pickscore, hpsv2.1, scorer:NAME, style:FILE, "
        "directional, saturation, range, tv: 'contrast + 0.3*aesthetic:laion-l14 - 0.1*tv'.",
    ),
]
PreviewReward = Annotated[
    str | None,
    _option(
        "--preview-reward",
        text="Another such sum, by which a search ranks its previews. It is not climbed.",
    ),
]
Final = Annotated[
    str | None,
    _option(
        "--final-reward",
        text="Another such sum, by which a search chooses among its finished pictures; "
        "teacher.contrast is of pictures, by the teacher of a scorer of latents.",
    ),
]
Strength = Annotated[
    float | None, _option("--strength", text="Of gradients, with a search or without; 0 is none.")
]
Mode = Annotated[
    str | None,
    _option(
        "--mode",
        text="x0: gradient at the preview; xt: through the denoiser; tilt: before it; noisy: of a "
        "scorer of latents.",
    ),
]
Normalize = Annotated[str | None, _option("--normalize", text="rms, raw, cfg or clamp.")]
Damping = Annotated[
    float | None, _option("--damping", text="Width of the reward: steer less early.")
]
RewardWidth = Annotated[
    float | None, _option("--reward-width", text="Of mode tilt: width of strength times reward.")
]
Window = Annotated[
    str | None, _option("--window", metavar="LOW:HIGH", text="Noise levels to guide in, of 0:1.")
]
Every = Annotated[int | None, _option("--every", text="Guide each N-th step of the window.")]
Views = Annotated[int | None, _option("--views", text="Random looks at the preview per gradient.")]
Crop = Annotated[
    str | None, _option("--crop", metavar="LOW:HIGH", text="Area that a view sees, of 0:1.")
]
Noise = Annotated[float | None, _option("--view-noise", text="Noise of a view, of the range 0-1.")]
Decoder = Annotated[
    str | None,
    _option(
        "--decoder", text="Tiny autoencoder for previews: starter, DIR or hub id. [the model's]"
    ),
]
Search = Annotated[
    str | None,
    _option(
        "--search",
        text="best_of, prune, fk, svdd, noise, noise_gradient, backstep, auto (by measured gains) "
        "or none. [prune for the starter, or none]",
    ),
]
Budget = Annotated[
    int | None,
    _option("--budget", text="Pictures per prompt of a search. [2 of each kept for the starter]"),
]
Until = Annotated[
    float | None,
    _option(
        "--until",
        text="Of a search: stop at the first picture told from its prompt's swaps with this "
        "probability, such as 0.9.",
    ),
]
SearchOption = Annotated[
    list[str] | None,
    _option(
        "--search-option",
        metavar="NAME=VALUE",
        text="A setting of the search's own: fk funnel=0.7, temperature=100, interval=0.2; "
        "backstep back=0.5, tries=2; noise_gradient rate=5; noise radius=0.5; svdd duplicates=4; "
        "prune at=0.4 with keep=0.5.",
    ),
]
Steps = Annotated[int | None, _option("--steps", text="Denoising steps. [the model's]")]
CfgScale = Annotated[
    float | None, _option("--cfg-scale", text="Classifier-free guidance. [the model's]")
]
Negative = Annotated[str | None, _option("--negative", text="What to stay away from.")]
Init = Annotated[
    Path | None, _option("--init", text="A picture to start from, in the place of noise.")
]
StrengthInit = Annotated[
    float | None,
    _option(
        "--strength-init", text="Noise put on --init, of 0:1; 1 leaves little. [the pipeline's]"
    ),
]
Mask = Annotated[
    Path | None,
    _option(
        "--mask",
        text="White where --init may change; the rest is kept. Or, with --segmenter, a phrase that "
        "is found in --init: 'the hat'.",
    ),
]
Segmenter = Annotated[
    str | None,
    _option("--segmenter", text="Finds the phrase of --mask: clipseg:REPO_OR_DIR, or any CLIP."),
]
Edit = Annotated[
    str | None,
    _option(
        "--edit",
        metavar="'SOURCE -> TARGET'",
        text="What --init shows and shall show: the prompt is TARGET, the reward directional, "
        "where they are not given.",
    ),
]
Sampler = Annotated[
    str | None,
    _option(
        "--sampler", text="ddim, ddpm, pndm, euler, euler_a, heun, dpmpp_2m, unipc. [the model's]"
    ),
]
Width = Annotated[int | None, _option("--width", text="Pixels. [the model's]")]
Height = Annotated[int | None, _option("--height", text="Pixels. [the model's]")]
BatchSize = Annotated[
    int | None,
    _option(
        "--batch-size",
        text="Pictures computed at once, of whatever prompts; 1 is exact. [1; 5 in the starter's "
        "search]",
    ),
]
Device = Annotated[str | None, _option("--device", text="auto, cpu, cuda, cuda:1, mps. [auto]")]
Dtype = Annotated[str | None, _option("--dtype", text="float32, float16, bfloat16. [float32]")]
AnyAutoencoder = Annotated[
    bool,
    _option("--force", text="A scorer of latents takes another autoencoder's (decoder tuned on)."),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N|random",
        parser=parse_seed,
        help="Of the first picture; the next has the next. A search takes several.",
    ),
]
SameSeed = Annotated[bool, _option("--same-seed", text="Each prompt begins with the same seed.")]
Count = Annotated[int, _option("--num", text="Pictures per prompt.")]
Out = Annotated[Path, _option("--out", text="Folder for the pictures.")]
Compare = Annotated[bool, _option("--compare", text="Also the unguided baselines, side by side.")]
Resume = Annotated[
    bool,
    _option("--resume", text="Go on with this very run in --out: what is there is not made again."),
]
NoMetadata = Annotated[bool, _option("--no-metadata", text="Write nothing into the pictures.")]
