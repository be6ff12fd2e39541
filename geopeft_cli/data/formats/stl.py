"""Stereolithography meshes (.stl), text or binary, through open3d."""

from __future__ import annotations

from pathlib import Path

from geopeft_cli.data.formats import open3d_bridge
from geopeft_cli.data.formats.mesh import Mesh
from geopeft_cli.errors import DataError

_HEADER = 80
_FACET = 50


def read(path: Path) -> Mesh:
    """Vertices and triangles of an STL file.

    open3d does not notice a text file that ends between two facets, so the end is checked here.

    Raises:
        DataError: a file that is damaged or cut off.
    """
    content = path.read_bytes()
    facets = int.from_bytes(content[_HEADER : _HEADER + 4], "little")
    binary = len(content) == _HEADER + 4 + facets * _FACET
    if not binary and not (content.lstrip().startswith(b"solid") and b"endsolid" in content[-1024:]):
        raise DataError(
            f"{path}: is neither a binary STL file of {facets} facets nor a text one from solid to endsolid",
            "The file is damaged or cut off; copy or export it again.",
        )
    return open3d_bridge.read_mesh(path)
