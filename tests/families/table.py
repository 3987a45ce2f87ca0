"""The table of supported pipelines, as the README shows it."""

from __future__ import annotations

from collections.abc import Iterable

from families.parts import Family

from clipguide.attach.decoders import autoencoder


def pipeline_table(families: Iterable[Family]) -> str:
    """A row per pipeline class: its autoencoder, its variants, and the modes verified in all."""
    rows: dict[str, list[Family]] = {}
    for family in families:
        rows.setdefault(family.pipeline, []).append(family)
    lines = ["| pipeline | latents of | x0 | xt | noisy |", "|---|---|---|---|---|"]
    for name, members in rows.items():
        vae = autoencoder(members[0].build())
        latents = "none: pixels" if vae is None else f"`{type(vae).__name__}`"
        variants = ", ".join(member.variant for member in members if member.variant)
        verified = [all(mode in m.modes for m in members) for mode in ("x0", "xt", "noisy")]
        marks = ["yes" if found else "no" for found in verified]
        shown = f"`{name}`" + f" ({variants})" * bool(variants)
        lines.append(f"| {shown} | {latents} | {' | '.join(marks)} |")
    return "\n".join(lines)
