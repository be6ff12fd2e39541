"""Everything that a file says of its points, by name: the one function that picks a reader by suffix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats.arrays import load_numpy
from geopeft_cli.data.formats.las_fields import read_las_fields
from geopeft_cli.data.formats.pcd_fields import read_pcd_fields
from geopeft_cli.data.formats.ply_fields import read_ply_fields
from geopeft_cli.data.formats.text import parse_rows, read_lines
from geopeft_cli.errors import DataError

Fields = dict[str, npt.NDArray[np.generic]]

_NAMED: dict[str, Callable[[Path], Fields]] = {
    ".ply": read_ply_fields,
    ".pcd": read_pcd_fields,
    ".las": read_las_fields,
    ".laz": read_las_fields,
}
_TEXT = (".txt", ".xyz", ".pts", ".csv")
SUFFIXES = (*_NAMED, ".npy", ".npz", *_TEXT)

_USUAL_COLUMNS: dict[int, tuple[str, ...]] = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "label"),
    6: ("x", "y", "z", "red", "green", "blue"),
    7: ("x", "y", "z", "red", "green", "blue", "label"),
    10: ("x", "y", "z", "red", "green", "blue", "nx", "ny", "nz", "label"),
}


def read_fields(path: Path, columns: Sequence[str] = ()) -> Fields:
    """What a file holds for every point, (n,) or (n, k) each, by the names in the file.

    Args:
        path: its suffix, in any case, is one of ``SUFFIXES``.
        columns: names for the columns of .npy files and of text without a line of names; empty for the usual ones,
            x y z, x y z label, x y z red green blue, the same with label, or with nx ny nz label.

    Raises:
        DataError: the file is missing, damaged or empty, its suffix is unknown, or its columns need names.
        MissingDependencyError: an optional package is needed for this format.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown suffix {path.suffix!r}", f"Readable are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path}: no such file", "Check the path; a relative path starts at the data set's root.")
    try:
        if suffix in _NAMED:
            return _NAMED[suffix](path)
        if suffix in _TEXT:
            return _from_text(path, columns)
        content = load_numpy(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", "Check the permissions and the disk.") from error
    if isinstance(content, dict):
        return content
    if content.dtype.names:
        return {name: content[name] for name in content.dtype.names}
    if content.ndim != 2:
        raise DataError(f"{path}: has the shape {content.shape}, not (points, columns)", "Save one row a point.")
    return table_fields(path, content, columns)


def table_fields(where: object, table: npt.NDArray[np.generic], columns: Sequence[str] = ()) -> Fields:
    """The columns of an array (n, k) by their names.

    Args:
        where: the file, for messages.
        table: a row a point.
        columns: their names; empty for the usual ones, see :func:`read_fields`.

    Raises:
        DataError: there are no such names for so many columns.
    """
    names = columns or _USUAL_COLUMNS.get(table.shape[1])
    if names is None or len(names) != table.shape[1]:
        given = f"{len(names)} names" if names else "no names"
        raise DataError(
            f"{where}: has {table.shape[1]} columns and {given} for them",
            "Name all columns, for example x y z red green blue label.",
        )
    return {name: table[:, column] for column, name in enumerate(names)}


def _from_text(path: Path, columns: Sequence[str]) -> Fields:
    lines = [(number, line.replace(",", " ").replace(";", " ")) for number, line in read_lines(path, comments=("#",))]
    if lines and lines[0][1].split()[0].isdigit() and len(lines[0][1].split()) == 1:
        lines = lines[1:]  # the number of points, as in .pts files
    if lines and not _is_number(lines[0][1].split()[0]):
        columns = columns or [word.lower() for word in lines[0][1].removeprefix("//").split()]
        lines = lines[1:]
    if not lines:
        raise DataError(f"{path}: holds no points", "Export it again, or remove it from the data set.")
    return table_fields(path, parse_rows(path, lines, range(len(lines[0][1].split()))), columns)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
