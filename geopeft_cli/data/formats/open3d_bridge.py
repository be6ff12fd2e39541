"""The one place that imports open3d: binary .pcd, .ply and .stl.

open3d reports a damaged file by printing a warning and returns what it has, or memory that it never filled. What it
prints while reading is therefore caught, and anything printed is a failure.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats.mesh import Mesh
from geopeft_cli.errors import DataError, MissingDependencyError

SYSTEM_LIBRARIES = "apt-get install libusb-1.0-0 libgl1 libegl1 libgomp1"

# open3d says this about every .ply without faces, which is a cloud and no mistake
_HARMLESS = "appears to be a geometry::PointCloud"
_COLORS = re.compile("\x1b\\[[0-9;]*m")
_SPREAD = {"positions": ("x", "y", "z"), "colors": ("red", "green", "blue"), "normals": ("nx", "ny", "nz")}
"""What open3d puts into one array."""

_one_at_a_time = threading.Lock()

T = TypeVar("T")


def read_cloud(path: Path) -> npt.NDArray[np.float64]:
    """All points of a .pcd or .ply file, NaN ones included, float64 (n, 3)."""
    open3d = load_open3d()
    cloud = _heard(path, lambda: open3d.io.read_point_cloud(str(path), remove_nan_points=False))
    return np.array(cloud.points, dtype=np.float64).reshape(-1, 3)


def read_mesh(path: Path) -> Mesh:
    """Vertices and triangles of a .ply or .stl file; a cloud gives no triangles."""
    open3d = load_open3d()
    mesh = _heard(path, lambda: open3d.io.read_triangle_mesh(str(path)))
    vertices = np.array(mesh.vertices, dtype=np.float64).reshape(-1, 3)
    return Mesh(vertices, np.array(mesh.triangles, dtype=np.int64).reshape(-1, 3))


def read_pcd_fields(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """All fields of a .pcd file by name, each (n,), NaN points included; a packed color as red, green and blue."""
    open3d = load_open3d()
    cloud = _heard(path, lambda: open3d.t.io.read_point_cloud(str(path), remove_nan_points=False))
    fields: dict[str, npt.NDArray[np.generic]] = {}
    for name in cloud.point:
        columns = cloud.point[name].numpy().copy()
        if name in _SPREAD:
            fields |= dict(zip(_SPREAD[name], columns.T, strict=True))
        else:
            fields[str(name)] = columns[:, 0] if columns.shape[1] == 1 else columns
    return fields


def estimated_normals(points: npt.NDArray[np.float64], neighbors: int, toward: npt.NDArray[np.float64]) -> Any:
    """Normals of the planes through the nearest ``neighbors`` of every point, that face ``toward`` (3,); (n, 3)."""
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(knn=neighbors))
    cloud.orient_normals_towards_camera_location(toward)
    return np.array(cloud.normals)


def load_open3d() -> Any:
    """The module ``open3d``.

    Raises:
        MissingDependencyError: it, or a system library that it needs, is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import open3d
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"reading .ply, .stl and binary .pcd files needs open3d: {error}",
            "pip install open3d-cpu (Linux on x86_64) or pip install open3d",
        ) from error
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"open3d does not load: {error}", SYSTEM_LIBRARIES) from error
    return open3d


def _heard(path: Path, read: Callable[[], T]) -> T:
    with _one_at_a_time:
        ear = _Ear(sys.stdout)
        with contextlib.redirect_stdout(ear):
            content = read()
    said = " ".join(line for line in _COLORS.sub("", ear.text).splitlines() if _HARMLESS not in line)
    if said:
        raise DataError(f"{path}: {said}", "The file is damaged or cut off; copy or export it again.")
    return content


class _Ear:
    """Standard output that keeps what this thread writes and passes on what others write."""

    def __init__(self, stream: Any) -> None:
        self.text = ""
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            return int(self._stream.write(text))
        self.text += text
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
