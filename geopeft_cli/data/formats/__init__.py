"""One reader per file format, and the one function that picks it by suffix."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats import arrays, obj, off, pcd, ply, stl, text
from geopeft_cli.data.formats.mesh import Mesh, sample_surface
from geopeft_cli.errors import DataError

logger = logging.getLogger("geopeft")

_FILES_WITH_GAPS = itertools.count()

Rows = npt.NDArray[np.float64]

READERS: dict[str, Callable[[Path], Rows | Mesh]] = {
    ".ply": ply.read,
    ".pcd": pcd.read,
    ".xyz": text.read,
    ".pts": text.read,
    ".txt": text.read,
    ".npy": arrays.read_npy,
    ".npz": arrays.read_npz,
    ".h5": arrays.read_hdf5,
    ".off": off.read,
    ".obj": obj.read,
    ".stl": stl.read,
}


def read_points(path: Path, samples: int, seed: int) -> Rows:
    """The points of one cloud or mesh file; points with a NaN or infinite coordinate are left out.

    Args:
        path: its suffix, in any case, is a key of ``READERS``.
        samples: how many points to draw on a mesh; a cloud, or a mesh without faces, gives all its points.
        seed: of the draw on a mesh.

    Returns:
        float64 (n, 3) in the file's own units and order, n >= 1.

    Raises:
        DataError: the file is missing, damaged or empty, or its suffix is unknown; the message names it.
        MissingDependencyError: .ply, .pcd and .stl need open3d, which cannot be imported.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown suffix {path.suffix!r}", f"Readable are {', '.join(READERS)}.")
    if not path.is_file():
        raise DataError(f"{path}: no such file", "Check the path; a relative path starts at the data set's root.")
    try:
        content = reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", "Check the permissions and the disk.") from error
    if isinstance(content, Mesh):
        points = sample_surface(content, samples, seed, path) if len(content.triangles) else content.vertices
    else:
        points = content
    return _finite(points, path)


def _finite(points: Rows, path: Path) -> Rows:
    if not len(points):
        raise DataError(f"{path}: holds no points", "Export it again, or remove it from the data set.")
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise DataError(f"{path}: all {len(points)} points are NaN or infinite", "Remove it from the data set.")
    if not finite.all():
        dropped = np.count_nonzero(~finite)
        level = logging.INFO if next(_FILES_WITH_GAPS) else logging.WARNING  # one line, however many files
        logger.log(level, "%s: left out %d of %d points that are NaN or infinite", path, dropped, len(points))
    return points[finite]
