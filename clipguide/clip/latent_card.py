"""The model card of a latent CLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clipguide.clip.trainable import table_of

if TYPE_CHECKING:
    from clipguide.clip.latent_clip import LatentClip


def card(model: LatentClip) -> str:
    """The model card, Markdown with the header that the Hub reads."""
    config, tower = model.config, model.tower
    hashed = config.autoencoder["float32"]
    count = sum(value.numel() for part in (tower, model.scale) for value in part.parameters())
    known = config.autoencoder.get("name", "not named")
    scales = ", ".join(f"{scale:.1f} at {level:g}" for level, scale in _scales(model).items())
    made = [
        f"- {name.replace('_', ' ').capitalize()}: {value}" for name, value in config.made.items()
    ]
    best = (
        [
            f"- Guidance it was measured best at: {dict(config.guidance)}; a contrast tells a "
            f"prompt from: {', '.join(config.alternatives)}"
        ]
        if config.guidance
        else []
    )
    lines = [
        "---",
        "library_name: clipguide",
        "tags: [clip, diffusion, guidance, latents]",
        "---",
        "",
        "# A CLIP that reads noisy latents",
        "",
        "It scores the latents of a diffusion model against prompts while they are still noisy,",
        "without decoding them: for guidance by its gradient, and to choose among samples early.",
        "",
        f"- Teacher, whose text tower and space it shares: `{config.teacher}`, weights",
        f"  `{config.teacher_hash}`",
        f"- Autoencoder: {known}, weights `{hashed}`; latents of others are refused",
        f"- Tower: `{tower.kind}` {tower.settings()}, {count / 1e6:.2f} M parameters; any",
        f"  height and width that {tower.multiple} divides",
        f"- Noise levels: sigma_bar from 0 to 1; the factor on cosines is {scales}",
        *made,
        *best,
        "",
        "```python",
        "import clipguide",
        "",
        'scorer = clipguide.load_scorer("FOLDER")',
        "reward = clipguide.ContrastReward(scorer, prompt)",
        "with clipguide.guide(pipe, reward):",
        "    image = pipe(prompt).images[0]",
        "```",
        "",
    ]
    return "\n".join([*lines, *table_of(config.figures)])


@torch.no_grad()
def _scales(model: LatentClip) -> dict[float, float]:
    levels = [0.0, 0.5, 0.85, 1.0]
    found = model.scale(torch.tensor(levels, device=model.device).to(model.dtype))
    return dict(zip(levels, found.tolist(), strict=True))
