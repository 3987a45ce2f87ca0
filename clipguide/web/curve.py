"""The score of the previews as a drawing: an SVG that asks for nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 560, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 26, 30
_NAMES = {"guided": "with CLIP", "unguided": "without CLIP"}


def score_curve(guided: Sequence[tuple[int, float]], unguided: Sequence[tuple[int, float]]) -> str:
    """HTML: cosine against denoiser calls, a line for each picture; "" without points.

    Args:
        guided, unguided: (call, cosine) in order.
    """
    points = [*guided, *unguided]
    if not points:
        return ""
    last = max(call for call, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)

    def place(call: int, value: float) -> str:
        x = _LEFT + call / last * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    lines = "".join(
        f'<polyline class="{kind}" points="{" ".join(place(*point) for point in found)}"/>'
        + "".join(_dot(kind, place(*point), point) for point in found)
        for kind, found in (("unguided", unguided), ("guided", guided))
        if found
    )
    frame = (
        f'<line class="axis" x1="{_LEFT}" y1="{HEIGHT - _BOTTOM}" x2="{WIDTH - _RIGHT}" '
        f'y2="{HEIGHT - _BOTTOM}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 6}" text-anchor="end">{high:.2f}</text>'
        f'<text x="{_LEFT - 6}" y="{HEIGHT - _BOTTOM}" text-anchor="end">{low:.2f}</text>'
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{last} calls</text>'
        f'<text x="{_LEFT}" y="14" class="title">cosine of the preview with the prompt</text>'
    )
    key = "".join(
        f'<tspan class="{kind}" x="{WIDTH - _RIGHT - 110 * place}">{name}</tspan>'
        for place, (kind, name) in enumerate(_NAMES.items())
    )
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="score of the previews by denoiser call">{frame}'
        f'<text y="14" text-anchor="end">{key}</text>{lines}</svg>'
    )


def _dot(kind: str, place: str, point: tuple[int, float]) -> str:
    x, y = place.split(",")
    return (
        f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"><title>call {point[0]}: '
        f"{point[1]:.3f}</title></circle>"
    )
