"""Points with a label each: beside them in .npz and .h5 files, in the last column of .npy and text files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats import arrays, text
from geopeft_cli.errors import DataError

NAME = "point_labels"
"""What the array with the labels is called."""

SUFFIXES = (".npz", ".h5", ".npy", ".txt", ".xyz", ".pts")

Labelled = tuple[npt.NDArray[np.float64], npt.NDArray[Any]]


def read_labelled(path: Path) -> Labelled:
    """The points (n, 3) of a file and the labels (n,) of these; points with a NaN or infinite coordinate are left out.

    Labels are as in the file, of any type of number: whoever knows which may be there checks them.

    Raises:
        DataError: the file is missing, damaged or empty, has no labels or not as many as points, or is of a format
            that holds none; the message names it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: a {path.suffix} file holds no labels of points", f"Formats that do are {', '.join(SUFFIXES)}."
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file", "Check the path; a relative path starts at the data set's root.")
    try:
        points, labels = _content(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", "Check the permissions and the disk.") from error
    if labels.shape != (len(points),) or labels.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {NAME} is {labels.dtype} {labels.shape} for {len(points)} points", "Save an integer a point."
        )
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise DataError(f"{path}: holds no points, or none that is finite", "Remove it from the data set.")
    return points[finite], labels[finite]


def _content(path: Path) -> Labelled:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return arrays.read_npz(path), _named(path, arrays.load_numpy(path))
    if suffix == ".h5":
        points = arrays.read_hdf5(path)
        with h5py.File(path, "r") as file:
            found = {name: item[()] for name, item in file.items() if name == NAME and isinstance(item, h5py.Dataset)}
        return points, _named(path, found)
    if suffix == ".npy":
        points, table = arrays.read_npy(path), arrays.load_numpy(path)
        _require_four(path, table.shape[1])
        return points, table[:, -1]
    lines = [(number, line.replace(",", " ")) for number, line in text.read_lines(path, comments=("#", "//"))]
    width = len(lines[0][1].split()) if lines else 0
    _require_four(path, width)
    table = text.parse_rows(path, lines, (0, 1, 2, width - 1))
    return table[:, :3], table[:, 3]


def _named(path: Path, found: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if NAME not in found:
        raise DataError(f"{path}: has no array {NAME!r}", "Save the label of every point under this name.")
    return found[NAME]


def _require_four(path: Path, columns: int) -> None:
    if columns < 4:
        raise DataError(
            f"{path}: has {columns} columns", "x, y, z come first, and the label of the point in the last column."
        )
