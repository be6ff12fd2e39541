"""Wavefront OBJ meshes: positions and faces; everything else in the file is ignored.

Own code because open3d's reader keeps only the triangles of a file with quadrilaterals and skips lines that it does
not understand, in both cases without failing.
"""

from __future__ import annotations

from pathlib import Path

from geopeft_cli.data.formats.mesh import Mesh, fan, triangle_array
from geopeft_cli.data.formats.text import parse_rows, read_lines
from geopeft_cli.errors import DataError


def read(path: Path) -> Mesh:
    """Vertices and faces of all objects in the file together; polygons become fans of triangles.

    Raises:
        DataError: a line that is not understood, or a face with a vertex that does not exist; names file and line.
    """
    vertices: list[tuple[int, str]] = []
    triangles: list[tuple[int, int, int]] = []
    for number, line in read_lines(path):
        kind, *words = line.split()
        if kind == "v":
            vertices.append((number, " ".join(words)))
        elif kind == "f":
            triangles += fan([_corner(path, number, word, len(vertices)) for word in words])
    return Mesh(parse_rows(path, vertices), triangle_array(triangles))


def _corner(path: Path, number: int, word: str, vertices: int) -> int:
    """``3``, ``3/1``, ``3//2`` or ``3/1/2`` counted from 1, or negative: back from the vertices read so far."""
    try:
        index = int(word.split("/", 1)[0])
    except ValueError:
        raise DataError(f"{path}:{number}: {word[:40]!r} is not a corner of a face", "Export it again.") from None
    corner = index - 1 if index > 0 else vertices + index
    if index == 0 or not 0 <= corner < vertices:
        raise DataError(
            f"{path}:{number}: a face refers to vertex {index}, and {vertices} are above it",
            "The file is damaged; export it again.",
        )
    return corner
