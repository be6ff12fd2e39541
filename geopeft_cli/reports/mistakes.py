"""Clouds that a model got wrong, drawn so that they can be turned with the mouse."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import numpy.typing as npt

from geopeft_cli.reports.svg import cloud_picture

MOST_POINTS = 2048
MOST_DOTS = 1024
YAW, PITCH = 0.6, 0.35
"""How a cloud is turned at first, in radians: about the axis that is up, then toward the viewer."""

PALETTE = (
    *("#3b82f6", "#ef7d1a", "#16a34a", "#e11d48", "#9061e8", "#b45309", "#ec4899"),
    *("#0d9fb0", "#84a40c", "#6b7fa8", "#d946ef", "#ca9a04", "#14b892", "#f87171"),
)
NOT_COUNTED = "#8b8f98"


@dataclass(frozen=True)
class Mistake:
    """One cloud.

    Attributes:
        name: of the cloud.
        note: what was wrong, in words.
        points: float (n, 3), y up.
        labels: panels by title, each with the label of every point, int (n,); empty where a cloud has one label. Labels
            below 0 do not count.
    """

    name: str
    note: str
    points: npt.NDArray[np.floating]
    labels: Mapping[str, npt.NDArray[np.integer]] = field(default_factory=dict)


def card(mistake: Mistake, names: Sequence[str]) -> str:
    """The cloud as a picture that needs no script, with the data from which a script draws it turned.

    Args:
        mistake: at most ``MOST_POINTS`` of its points are kept, at even distances in their order.
        names: of the labels of points.
    """
    kept = _spread(len(mistake.points), MOST_POINTS)
    points = scaled(mistake.points[kept])
    dots = _spread(len(points), MOST_DOTS)
    panels = {title: labels[kept] for title, labels in mistake.labels.items()}
    used = np.unique(np.concatenate([*panels.values()])) if panels else np.zeros(0, dtype=np.int64)
    colors = [color_of(label) for label in used.tolist()]
    figures = []
    drawn: list[tuple[str, npt.NDArray[np.integer] | None]] = [*panels.items()] or [("", None)]
    for title, labels in drawn:
        own = None if labels is None else np.searchsorted(used, labels)
        seen = f"{mistake.name}, {title}" if title else mistake.name
        data = "" if own is None else f' data-labels="{_base64(own.astype(np.uint8))}"'
        picture = cloud_picture(turned(points[dots]), seen, None if own is None else own[dots], colors)
        caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
        figures.append(f"<figure{data}>{picture}{caption}</figure>")
    quantized = np.rint(points * 32767).astype("<i2")
    entries = "".join(
        f'<li><span style="background:{color}"></span>{escape(names[label] if label >= 0 else "not counted")}</li>'
        for label, color in zip(used.tolist(), colors, strict=True)
    )
    legend = f'<ul class="legend">{entries}</ul>' if entries else ""
    return (
        f'<article class="cloud" data-points="{_base64(quantized)}" data-colors="{" ".join(colors)}" '
        f'data-yaw="{YAW}" data-pitch="{PITCH}"><div class="panels">{"".join(figures)}</div>'
        f"<h3>{escape(mistake.name)}</h3><p>{escape(mistake.note)}</p>"
        f"{legend}</article>"
    )


def color_of(label: int) -> str:
    """The color of a label of points, the same all over a page."""
    return PALETTE[label % len(PALETTE)] if label >= 0 else NOT_COUNTED


def scaled(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(n, 3) about the middle of their box, the farthest at distance 1; values that are not finite at the middle."""
    points = np.asarray(points, dtype=np.float64)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        return np.zeros_like(points)
    middle = (points[finite].min(axis=0) + points[finite].max(axis=0)) / 2
    centered = np.where(finite[:, None], points - middle, 0.0)
    return centered / (np.linalg.norm(centered, axis=1).max() or 1.0)


def turned(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, 3) as seen at first: x to the right, y up, z to the viewer."""
    x, y, z = points.T
    right = math.cos(YAW) * x + math.sin(YAW) * z
    near = math.cos(YAW) * z - math.sin(YAW) * x
    up = math.cos(PITCH) * y - math.sin(PITCH) * near
    return np.stack([right, up, math.sin(PITCH) * y + math.cos(PITCH) * near], axis=1)


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most ``most`` of ``count``, at even distances."""
    return (
        np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.zeros(0, int)
    )


def _base64(values: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
