"""Points as text: ``x y z`` first in every line, separated by white space or commas (.xyz, .pts, .txt)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.errors import DataError

Lines = Sequence[tuple[int, str]]
"""Line numbers, from 1, and texts without comments; blank lines are left out."""


def read(path: Path) -> npt.NDArray[np.float64]:
    """All points of a text file; columns after the third are ignored.

    Comments start with ``#`` or ``//``. A first line with nothing but a whole number, as in .pts files, is the number
    of points and must be right.
    """
    lines = [(number, line.replace(",", " ")) for number, line in read_lines(path, comments=("#", "//"))]
    declared = int(lines[0][1]) if lines and lines[0][1].isdigit() else None
    points = parse_rows(path, lines if declared is None else lines[1:])
    if declared is not None and declared != len(points):
        raise DataError(
            f"{path}: its first line announces {declared} points, it holds {len(points)}",
            "The file was cut off or edited; export or copy it again.",
        )
    return points


def read_lines(path: Path, comments: Sequence[str] = ("#",)) -> list[tuple[int, str]]:
    """The lines that say something, without what follows a sign in ``comments``."""
    # bytes that are no UTF-8 become a sign that no number contains, so the line is named where it matters
    content = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = []
    for number, line in enumerate(content.split("\n"), start=1):
        for sign in comments:
            line = line.split(sign, 1)[0]
        if line := line.strip():
            lines.append((number, line))
    return lines


def parse_rows(path: Path, lines: Lines, columns: Sequence[int] = (0, 1, 2)) -> npt.NDArray[np.float64]:
    """The numbers in some columns of every line, float64 (lines, columns).

    Raises:
        DataError: a line has too few columns or something else than a number in one of them; names file and line.
    """
    if not lines:
        return np.empty((0, len(columns)))
    try:
        return np.loadtxt([line for _, line in lines], usecols=columns, comments=None, ndmin=2)
    except ValueError as error:
        _blame(path, lines, columns)
        raise DataError(f"{path}: {error}", "Every line must start with three numbers.") from error


def read_table(path: Path, width: int) -> npt.NDArray[np.float64]:
    """All numbers of a file whose lines hold ``width`` numbers each, float64 (lines, width).

    Raises:
        DataError: the file is empty, or a line holds more, fewer, or something else; names file and line.
    """
    content = path.read_text(encoding="utf-8-sig", errors="replace")
    if not content.strip():
        raise DataError(f"{path}: is empty", "Copy or extract it again.")
    try:
        table = np.loadtxt(content.split("\n"), comments=None, ndmin=2)
        if table.shape[1] == width:
            return table
    except ValueError:
        pass  # which does not always name the line
    lines = read_lines(path, comments=())
    for number, line in lines:
        if len(line.split()) != width:
            raise DataError(
                f"{path}:{number}: {len(line.split())} columns, not {width}: {line[:60]!r}",
                "The file was cut off or is another one; copy or extract it again.",
            )
    return parse_rows(path, lines, range(width))


def _blame(path: Path, lines: Lines, columns: Sequence[int]) -> None:
    for number, line in lines:
        words = line.split()
        if len(words) <= max(columns):
            raise DataError(
                f"{path}:{number}: {len(words)} columns where at least {max(columns) + 1} are needed: {line[:60]!r}",
                "Every line must hold x, y and z; a short last line means that the file was cut off.",
            )
        for column in columns:
            try:
                float(words[column])
            except ValueError:
                raise DataError(
                    f"{path}:{number}: {words[column][:40]!r} is not a number",
                    "Remove header lines, or start them with #.",
                ) from None
