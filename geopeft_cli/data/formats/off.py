"""OFF meshes, with the variants found in the wild: NOFF, COFF, and ModelNet's ``OFF490 518 0``."""

from __future__ import annotations

import re
from pathlib import Path

from geopeft_cli.data.formats.mesh import Mesh, fan, triangle_array
from geopeft_cli.data.formats.text import Lines, parse_rows, read_lines
from geopeft_cli.errors import DataError

# texture, color and normal columns follow x, y, z and are ignored; 4OFF and nOFF have other dimensions
_KEYWORD = re.compile(r"^(ST)?C?N?OFF(?![A-Za-z])")


def read(path: Path) -> Mesh:
    """Vertices and faces of an ASCII OFF file; polygons become fans of triangles.

    Raises:
        DataError: not an OFF file, cut off, or a line that is not understood; names file and line.
    """
    lines = read_lines(path)
    keyword = _KEYWORD.match(lines[0][1]) if lines else None
    if keyword is None:
        first = repr(lines[0][1][:40]) if lines else "nothing"
        raise DataError(
            f"{path}: an OFF file starts with OFF, NOFF or COFF, this one with {first}",
            "Convert it to an ASCII OFF file.",
        )
    number, line = lines[0]
    glued = line[keyword.end() :].strip()
    lines = [(number, glued), *lines[1:]] if glued else lines[1:]
    vertices, faces = _counts(path, lines)
    body = lines[1:]
    if len(body) < vertices + faces:
        raise DataError(
            f"{path}: announces {vertices} vertices and {faces} faces and ends after {len(body)} lines of them",
            "The file was cut off; copy or export it again.",
        )
    triangles = [
        triangle for line in body[vertices : vertices + faces] for triangle in fan(_polygon(path, line, vertices))
    ]
    return Mesh(parse_rows(path, body[:vertices]), triangle_array(triangles))


def _counts(path: Path, lines: Lines) -> tuple[int, int]:
    number, line = lines[0] if lines else (1, "")
    words = line.split()
    if len(words) < 2 or not all(word.isdigit() for word in words[:2]):
        raise DataError(
            f"{path}:{number}: expected the numbers of vertices and faces, found {line[:40]!r}",
            "The file is damaged; export it again.",
        )
    return int(words[0]), int(words[1])


def _polygon(path: Path, line: tuple[int, str], vertices: int) -> list[int]:
    number, text = line
    words = text.split()
    try:
        polygon = [int(word) for word in words[1 : 1 + int(words[0])]]
        if len(polygon) < int(words[0]):
            raise ValueError(f"{words[0]} corners announced, {len(polygon)} given")
    except ValueError as error:
        raise DataError(f"{path}:{number}: not a face: {error}", "The file is damaged; export it again.") from error
    if any(not 0 <= corner < vertices for corner in polygon):
        raise DataError(
            f"{path}:{number}: a face refers to a vertex outside 0..{vertices - 1}: {text[:60]!r}",
            "The file is damaged; export it again.",
        )
    return polygon
