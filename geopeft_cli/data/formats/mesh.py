"""Triangle meshes and points drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.errors import DataError


@dataclass(frozen=True)
class Mesh:
    """A surface, or a cloud where there are no triangles.

    Attributes:
        vertices: float64 (V, 3).
        triangles: int64 (F, 3), indices into ``vertices``, not checked yet.
    """

    vertices: npt.NDArray[np.float64]
    triangles: npt.NDArray[np.int64]


def fan(polygon: Sequence[int]) -> list[tuple[int, int, int]]:
    """The triangles of a polygon, all at its first corner; none for fewer than three corners."""
    return [(polygon[0], second, third) for second, third in pairwise(polygon[1:])]


def triangle_array(triangles: Sequence[tuple[int, int, int]]) -> npt.NDArray[np.int64]:
    """int64 (F, 3), also for F = 0."""
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def sample_surface(mesh: Mesh, count: int, seed: int, path: Path) -> npt.NDArray[np.float64]:
    """Points spread evenly over the area of a mesh (Osada et al., 2002, eq. 1).

    Faces with a vertex that is not finite are left out.

    Args:
        mesh: with at least one triangle.
        count: how many points to draw.
        seed: of the draw.
        path: the file, for messages.

    Returns:
        float64 (count, 3).

    Raises:
        DataError: a triangle refers to a vertex that does not exist, or the whole surface has no area.
    """
    outside = (mesh.triangles < 0) | (mesh.triangles >= len(mesh.vertices))
    if outside.any():
        raise DataError(
            f"{path}: a face refers to vertex {mesh.triangles[outside][0]} (counted from 0) of {len(mesh.vertices)}",
            "The file is damaged; export it again.",
        )
    corners = mesh.vertices[mesh.triangles]
    corners = corners[np.isfinite(corners).all(axis=(1, 2))]
    first, edge1, edge2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    reach = np.linalg.norm(np.cross(edge1, edge2), axis=1).cumsum()
    if not len(reach) or reach[-1] == 0:
        raise DataError(f"{path}: its {len(mesh.triangles)} faces have no area", "Remove it from the data set.")
    draws = keyed_generator(seed, "surface").random((3, count))
    # side="right" skips faces without area; the last face is the answer where rounding reaches the total
    chosen = np.minimum(np.searchsorted(reach, draws[0] * reach[-1], side="right"), len(reach) - 1)
    root = np.sqrt(draws[1])[:, None]
    across = draws[2][:, None]
    points: npt.NDArray[np.float64] = first[chosen] + root * ((1 - across) * edge1[chosen] + across * edge2[chosen])
    return points
