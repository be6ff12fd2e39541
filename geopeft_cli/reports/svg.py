"""Line charts and pictures of point clouds as inline SVG, colored by the style sheet of the page they stand in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34
MOST_DOTS = 80
SIDE = 240
"""Of a picture of a cloud, in its own units."""

Curve = Sequence[tuple[float, float]]


def line_chart(title: str, curves: Mapping[str, Curve], marked: float | None = None) -> str:
    """Curves over a common axis of epochs.

    Args:
        title: read out in place of the picture.
        curves: points (epoch, value) by name; values that are not finite leave a gap.
        marked: the epoch at which a vertical line is drawn.
    """
    finite = [(x, y) for curve in curves.values() for x, y in curve if math.isfinite(y)]
    if not finite:
        return ""
    left, right = min(x for x, _ in finite), max(x for x, _ in finite)
    heights = ticks(min(y for _, y in finite), max(y for _, y in finite))
    bottom, top = heights[0], heights[-1]

    def across(x: float) -> float:
        share = (x - left) / (right - left) if right > left else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in heights:
        parts.append(f'<path class="grid" d="M{LEFT} {up(y)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{up(y) + 4:.1f}">{y:g}</text>')
    for x in _whole_ticks(left, right):
        parts.append(f'<text class="middle" x="{across(x)}" y="{HEIGHT - 16}">{x:g}</text>')
    parts.append(f'<text class="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}">epoch</text>')
    if marked is not None and left <= marked <= right:
        parts.append(f'<path class="mark" d="M{across(marked)} {TOP}V{HEIGHT - BOTTOM}"/>')
    for number, (name, curve) in enumerate(curves.items()):
        places = [(across(x), up(y)) if math.isfinite(y) else None for x, y in curve]
        parts.append(f'<path class="line c{number % 6}" d="{_path(places)}"/>')
        if len(curve) <= MOST_DOTS:
            parts += [
                f'<circle class="dot c{number % 6}" cx="{place[0]}" cy="{place[1]}" r="2.5">'
                f"<title>{escape(name)}, epoch {x:g}: {y:.4g}</title></circle>"
                for place, (x, y) in zip(places, curve, strict=True)
                if place is not None
            ]
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers at even distances, the first at most ``low`` and the last at least ``high``."""
    if high <= low:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def cloud_picture(
    points: npt.NDArray[np.floating], title: str, labels: npt.NDArray[np.integer] | None, colors: Sequence[str]
) -> str:
    """Points as dots.

    Args:
        points: (n, 3), turned as they are to be seen: x to the right, y up, z to the viewer, all in -1..1.
        title: read out in place of the picture.
        labels: (n,), indices into ``colors``; by default one color, paler where points are far away.
        colors: of CSS.
    """
    place = np.rint((points[:, :2] * (1, -1) + 1) * (SIDE / 2)).astype(int)
    if labels is None:
        depth = np.digitize(points[:, 2], np.quantile(points[:, 2], (1 / 3, 2 / 3)))
        groups = [(depth == step, f'stroke="currentColor" opacity="{(0.35, 0.65, 1)[step]}"') for step in range(3)]
    else:
        groups = [(labels == label, f'stroke="{color}"') for label, color in enumerate(colors)]
    paths = []
    for chosen, style in groups:
        spots = np.unique(place[chosen], axis=0)
        if len(spots):
            paths.append(f'<path {style} d="{"".join(f"M{x} {y}h0" for x, y in spots.tolist())}"/>')
    return f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(title)}">{"".join(paths)}</svg>'


def _whole_ticks(left: float, right: float) -> list[float]:
    return [x for x in ticks(left, right, 6) if left <= x <= right and x == int(x)]


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    steps, pen_down = [], False
    for place in places:
        if place is not None:
            steps.append(f"{'L' if pen_down else 'M'}{place[0]} {place[1]}")
        pen_down = place is not None
    return "".join(steps)
