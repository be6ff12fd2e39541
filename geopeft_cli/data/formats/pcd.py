"""Point Cloud Library files (.pcd): text data read here, binary and compressed data through open3d."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats import open3d_bridge
from geopeft_cli.data.formats.text import parse_rows, read_lines
from geopeft_cli.errors import DataError

_LONGEST_HEADER = 1 << 16


def read(path: Path) -> npt.NDArray[np.float64]:
    """All points, NaN ones included, float64 (n, 3).

    Text data is parsed here because open3d returns whatever was in memory for lines that are missing or not numbers.

    Raises:
        DataError: no header, no x, y, z, or fewer points than announced; names the file, and the line of text data.
    """
    header = header_of(path)
    columns = _columns(path, header)
    if header["DATA"] != ["ascii"]:
        return open3d_bridge.read_cloud(path)
    lines = read_lines(path)
    start = next(index for index, (_, line) in enumerate(lines) if line.split()[0] == "DATA")
    points = parse_rows(path, lines[start + 1 :], columns)
    announced = header.get("POINTS", ["?"])
    if announced != [str(len(points))]:
        raise DataError(
            f"{path}: announces {' '.join(announced)} points, holds {len(points)}",
            "The file was cut off; copy or export it again.",
        )
    return points


def header_of(path: Path) -> dict[str, list[str]]:
    """The words after every keyword of the header.

    Raises:
        DataError: there is none.
    """
    header: dict[str, list[str]] = {}
    with path.open("rb") as file:
        for line in file.read(_LONGEST_HEADER).decode("ascii", errors="replace").split("\n"):
            if words := line.split():
                header[words[0]] = words[1:]
            if "DATA" in header:
                break
    if "FIELDS" not in header or "DATA" not in header:
        raise DataError(f"{path}: has no PCD header", "It is no .pcd file, or was cut off.")
    return header


def _columns(path: Path, header: dict[str, list[str]]) -> list[int]:
    fields = header["FIELDS"]
    try:
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(fields))]
        starts = dict(zip(fields, np.cumsum([0, *counts]).tolist(), strict=False))
        return [starts[axis] for axis in "xyz"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: fields {' '.join(fields)} without x, y and z", "Export it with x, y, z.") from error
