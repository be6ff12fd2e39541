"""All properties of the vertices of a polygon file (.ply), whatever they are called, text or binary."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats.text import parse_rows
from geopeft_cli.errors import DataError

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
_TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"}
_TYPES |= {"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_LONGEST_HEADER = 1 << 16
_CUT_OFF = "The file is damaged or cut off; copy or export it again."


def read_ply_fields(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The properties of the vertices by name, each (n,), in the file's types; in float64 from text.

    Raises:
        DataError: no header, vertices that do not come first or hold lists, or fewer vertices than announced.
    """
    with path.open("rb") as file:
        head, found, _ = file.read(_LONGEST_HEADER).partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines() if line.split()]
    if not found or lines[:1] != [["ply"]]:
        raise DataError(f"{path}: has no PLY header", "It is no .ply file, or was cut off.")
    order = next((_ORDERS.get(words[1]) for words in lines if words[0] == "format" and len(words) > 1), None)
    elements = [at for at, words in enumerate(lines) if words[0] == "element"]
    if order is None or not elements or lines[elements[0]][1:2] != ["vertex"]:
        raise DataError(f"{path}: its header does not begin with vertices", "Export it as a cloud.")
    properties = list(takewhile(lambda words: words[0] != "element", lines[elements[0] + 1 :]))
    properties = [words for words in properties if words[0] == "property"]
    if any(len(words) != 3 or words[1] not in _TYPES for words in properties):
        raise DataError(f"{path}: its vertices have properties that are not plain numbers", "Export it as a cloud.")
    count = _count(path, lines[elements[0]])
    names = [words[2] for words in properties]
    if not order:
        return _from_text(path, len(lines), names, count)
    kind = np.dtype([(name, order + _TYPES[words[1]]) for name, words in zip(names, properties, strict=True)])
    with path.open("rb") as file:
        while file.readline().strip() != b"end_header":
            pass
        content = file.read(count * kind.itemsize)
    if len(content) < count * kind.itemsize:
        raise DataError(f"{path}: announces {count} vertices, holds {len(content) // kind.itemsize}", _CUT_OFF)
    table = np.frombuffer(content, kind)
    return {name: table[name].astype(table[name].dtype.newbyteorder("=")) for name in names}


def _count(path: Path, words: list[str]) -> int:
    if len(words) != 3 or not words[2].isdigit():
        raise DataError(f"{path}: announces {' '.join(words[2:])!r} vertices", _CUT_OFF)
    return int(words[2])


def _from_text(path: Path, header: int, names: list[str], count: int) -> dict[str, npt.NDArray[np.generic]]:
    lines = [(at, line) for at, line in enumerate(path.read_text(errors="replace").splitlines(), 1) if line.strip()]
    # the header's own lines, and its end
    body = lines[header + 1 :][:count]
    if len(body) < count:
        raise DataError(f"{path}: announces {count} vertices, holds {len(body)}", _CUT_OFF)
    rows = parse_rows(path, body, range(len(names)))
    return {name: rows[:, column] for column, name in enumerate(names)}
