"""Labelled points as files: what other programs draw, and what numpy reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import Labels, Points

Colors = npt.NDArray[np.uint8]

PALETTE: Colors = np.array(
    [
        *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75)),
        *((227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207), (174, 199, 232), (255, 187, 120)),
        *((152, 223, 138), (255, 152, 150), (197, 176, 213), (196, 156, 148)),
    ],
    dtype=np.uint8,
)
"""Of labels; those beyond its end begin again."""


def colors_of(labels: Labels) -> Colors:
    """A color for every label, uint8 (n, 3)."""
    return PALETTE[labels % len(PALETTE)]


def write_ply(path: Path, points: Points, labels: Labels) -> None:
    """Points with the properties x, y, z (as wide as they are), red, green, blue and label, binary little-endian."""
    wide = points.dtype == np.float64
    colors = colors_of(labels)
    columns: list[tuple[str, str, npt.NDArray[Any]]]
    columns = [(axis, "<f8" if wide else "<f4", points[:, i]) for i, axis in enumerate("xyz")]
    columns += [(name, "u1", colors[:, i]) for i, name in enumerate(("red", "green", "blue"))]
    columns += [("label", "<i4", labels)]
    rows = np.empty(len(points), dtype=[(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    names = {"<f8": "double", "<f4": "float", "u1": "uchar", "<i4": "int"}
    properties = [f"property {names[kind]} {name}" for name, kind, _ in columns]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    path.write_bytes("\n".join(head).encode("ascii") + rows.tobytes())


def write_npz(
    path: Path, points: Points, labels: Labels, probability: npt.NDArray[np.float32], names: Sequence[str]
) -> None:
    """The arrays ``points``, ``point_labels`` and ``probability`` (of the label), and ``part_names``."""
    np.savez_compressed(
        path, points=points, point_labels=labels, probability=probability, part_names=np.array(names, dtype=np.str_)
    )
