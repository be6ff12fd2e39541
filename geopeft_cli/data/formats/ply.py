"""Polygon files (.ply), clouds or meshes, through open3d once the header is known to name x, y and z.

open3d fills a coordinate that the file does not have with whatever was in memory.
"""

from __future__ import annotations

from pathlib import Path

from geopeft_cli.data.formats import open3d_bridge
from geopeft_cli.data.formats.mesh import Mesh
from geopeft_cli.errors import DataError

_LONGEST_HEADER = 1 << 16


def read(path: Path) -> Mesh:
    """Vertices and triangles; a cloud has no triangles.

    Raises:
        DataError: no header, vertices without x, y, z, or a file that is damaged or cut off.
    """
    properties: list[str] = []
    element = ""
    with path.open("rb") as file:
        lines = file.read(_LONGEST_HEADER).partition(b"end_header")[0].decode("ascii", errors="replace").splitlines()
    if not lines or lines[0].strip() != "ply":
        raise DataError(f"{path}: has no PLY header", "It is no .ply file, or was cut off.")
    for words in map(str.split, lines):
        if words[:1] == ["element"]:
            element = words[1] if len(words) > 1 else ""
        elif words[:1] == ["property"] and element == "vertex":
            properties.append(words[-1])
    if not {"x", "y", "z"} <= set(properties):
        raise DataError(f"{path}: its vertices have no x, y and z, only {properties}", "Export it with x, y, z.")
    return open3d_bridge.read_mesh(path)
