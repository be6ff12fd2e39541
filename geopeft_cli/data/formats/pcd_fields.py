"""All fields of a Point Cloud Library file (.pcd), whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats import open3d_bridge
from geopeft_cli.data.formats.pcd import header_of
from geopeft_cli.data.formats.text import parse_rows, read_lines
from geopeft_cli.errors import DataError

_CUT_OFF = "The file is damaged or cut off; copy or export it again."

Fields = dict[str, npt.NDArray[np.generic]]


def read_pcd_fields(path: Path) -> Fields:
    """The fields by name, each (n,), in the file's types, in float64 from text; NaN points included.

    ``rgb`` and ``rgba``, which pack a color into four bytes, come as ``red``, ``green`` and ``blue``.

    Raises:
        DataError: no header, fields of unknown types, or fewer points than announced; names the file.
    """
    header = header_of(path)
    try:
        names, points = header["FIELDS"], int(header["POINTS"][0])
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
        kind = np.dtype(
            [
                (name, f"<{letter.lower()}{size}", (count,) if count > 1 else ())
                for name, letter, size, count in zip(names, header["TYPE"], header["SIZE"], counts, strict=True)
            ]
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path}: its header cannot be read: {error}", _CUT_OFF) from error
    way = header["DATA"]
    if way == ["binary"]:
        found = _from_binary(path, kind, points)
    elif way == ["ascii"]:
        found = _from_text(path, kind, points)
    else:
        found = open3d_bridge.read_pcd_fields(path)
    held = min((len(field) for field in found.values()), default=0)
    if held != points:
        raise DataError(f"{path}: announces {points} points, holds {held}", _CUT_OFF)
    return _unpacked(found)


def _from_binary(path: Path, kind: np.dtype[np.void], points: int) -> Fields:
    with path.open("rb") as file:
        while not file.readline().startswith(b"DATA"):
            pass
        content = file.read(points * kind.itemsize)
    table = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)
    return {name: table[name] for name in kind.names or ()}


def _from_text(path: Path, kind: np.dtype[np.void], points: int) -> Fields:
    lines = read_lines(path)
    start = next(index for index, (_, line) in enumerate(lines) if line.split()[0] == "DATA")
    fields: Fields = {}
    column = 0
    widths = {name: int(np.prod(kind[name].shape)) for name in kind.names or ()}
    rows = parse_rows(path, lines[start + 1 :], range(sum(widths.values())))
    for name, width in widths.items():
        fields[name] = rows[:, column] if width == 1 else rows[:, column : column + width]
        if name in ("rgb", "rgba"):
            # text holds the packed color as a float or as a whole number, as the type says
            fields[name] = fields[name].astype(kind[name])
        column += width
    return fields


def _unpacked(fields: Fields) -> Fields:
    for name in ("rgb", "rgba"):
        if name in fields and fields[name].dtype.itemsize == 4:
            packed = np.ascontiguousarray(fields.pop(name)).view(np.uint32)
            fields |= {color: packed >> shift & 255 for color, shift in (("red", 16), ("green", 8), ("blue", 0))}
    return fields
