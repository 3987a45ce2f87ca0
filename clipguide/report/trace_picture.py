"""The trace of a guided run as a picture: the reward of each image over the noise level."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from clipguide.guidance.trace import Trace
from clipguide.report.fonts import lettering

MARGIN = 44
COLORS = ("#1f6feb", "#d1570f", "#2da44e", "#8250df", "#bf3989", "#57606a")
INK, PAPER, FRAME = "#24292f", "#ffffff", "#d0d7de"


def trace_picture(trace: Trace, width: int = 640, height: int = 360) -> Image.Image:
    """One line per image of the batch, from pure noise at the left (1) to none at the right (0).

    Args:
        trace: of `clipguide.guide`, with at least one guided step.
        width, height: of the picture in pixels, at least 160 and 120.

    Raises:
        ValueError: no guided step, or a picture too small for its axes.

    Example:
        >>> with guide(pipe, reward) as trace:
        ...     image = pipe("a red fox").images[0]
        >>> trace_picture(trace, 320, 200).size
        (320, 200)
    """
    if not trace.steps:
        raise ValueError("got a trace without a guided step, expected one or more")
    if width < 160 or height < 120:
        raise ValueError(f"got a picture of {width}x{height}, expected at least 160x120")
    lines = _lines(trace)
    values = [value for line in lines for _, value in line]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = 2 * MARGIN, MARGIN // 2, width - MARGIN // 2, height - MARGIN
    draw.rectangle((left, top, right, bottom), outline=FRAME)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        sigma, value = point
        share = 0.5 if high == low else (value - low) / (high - low)
        return right - sigma * (right - left), bottom - 8 - share * (bottom - top - 16)

    for number, line in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        points = [place(point) for point in line]
        draw.line(points, fill=color, width=2, joint="curve")
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color)
    for value in (low, high):
        _write(draw, (left - 6, place((1.0, value))[1]), f"{value:.4g}", "rm")
    for sigma in (1.0, 0.5, 0.0):
        _write(draw, (place((sigma, low))[0], bottom + 6), f"{sigma:g}", "mt")
    _write(draw, ((left + right) / 2, height - 4), "noise level of the step, and its reward", "mb")
    return picture


def _lines(trace: Trace) -> list[list[tuple[float, float]]]:
    """(sigma_bar, score) of each image, its steps in order; without those that are not finite."""
    batch = max(len(step.score) for step in trace.steps)
    return [
        [
            (step.sigma, value)
            for step in trace.steps
            if row < len(step.score) and math.isfinite(value := float(step.score[row]))
        ]
        for row in range(batch)
    ]


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str) -> None:
    font, shown = lettering(text, 13)
    draw.text(place, shown, fill=INK, font=font, anchor=anchor)
