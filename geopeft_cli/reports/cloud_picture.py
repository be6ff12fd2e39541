"""A predicted cloud as a picture, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.errors import MissingDependencyError

TURN, TILT = np.deg2rad(35), np.deg2rad(25)
MOST_POINTS = 20_000
STYLE: dict[Any, Any] = {"text.parse_math": False}  # names of files and classes are no formulas


def require_matplotlib() -> None:
    """Refuse, before anything is predicted, pictures that could not be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "--picture needs matplotlib, which is not installed", 'Run pip install "geopeft[plot]".'
        ) from None


def draw_cloud(
    path: Path,
    points: npt.NDArray[np.float32],
    title: str,
    colors: npt.NDArray[np.uint8] | None = None,
    legend: Mapping[str, npt.NDArray[np.uint8]] | None = None,
    up: str = "y",
) -> None:
    """Write a .png file: points seen from the side and from above, near ones over far ones.

    Args:
        path: the file.
        points: (n, 3), of which an even selection is drawn where there are too many.
        title: above it.
        colors: uint8 (n, 3); by default the nearer, the darker.
        legend: what the colors mean.
        up: the axis that points up, ``y`` or ``z``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    chosen = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    across, height, depth = _projected(points[chosen], up)
    order = np.argsort(depth)
    paint: Any = depth[order] if colors is None else colors[chosen][order] / 255
    with rc_context(STYLE):
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        size = float(np.clip(4000 / len(chosen), 0.5, 12))
        # far points stay visible on white: the colors begin half a depth behind them
        shades = {} if colors is not None else {"cmap": "Blues", "vmin": 1.5 * depth.min() - 0.5 * depth.max()}
        axes.scatter(across[order], height[order], s=size, c=paint, linewidths=0, **shades)
        axes.set_aspect("equal")
        axes.set_axis_off()
        figure.suptitle(title)
        if legend:
            marks = [
                Line2D([], [], marker="o", linestyle="", color=tuple((color / 255).tolist()))
                for color in legend.values()
            ]
            figure.legend(marks, [f" {name}" for name in legend], loc="outside lower center", ncols=3)
        figure.savefig(path, format="png", metadata={"Software": None}, dpi=100)


def _projected(points: npt.NDArray[np.float32], up: str) -> tuple[npt.NDArray[np.float32], ...]:
    """Across, up and towards the eye, each (n,)."""
    x, y, z = points.T if up == "y" else points[:, [1, 2, 0]].T  # renaming z x y to x y z keeps the handedness
    across, away = np.cos(TURN) * x + np.sin(TURN) * z, np.cos(TURN) * z - np.sin(TURN) * x
    return across, np.cos(TILT) * y - np.sin(TILT) * away, np.sin(TILT) * y + np.cos(TILT) * away
