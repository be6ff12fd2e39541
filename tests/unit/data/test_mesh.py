"""Meshes: the variants of OFF and OBJ, and even, seeded sampling of surfaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geopeft_cli.data.formats import obj, off, read_points
from geopeft_cli.data.formats.mesh import Mesh, fan, sample_surface
from geopeft_cli.errors import DataError

SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
ROWS = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
HERE = Path("a.off")


@pytest.mark.parametrize(
    "content",
    [
        f"OFF\n4 1 0\n{ROWS}4 0 1 2 3\n",
        f"OFF 4 1 0\n{ROWS}4 0 1 2 3\n",
        f"OFF4 1 0\n{ROWS}4 0 1 2 3\n",
        f"OFF\n4 1\n{ROWS}4 0 1 2 3\n",
        f"# made by hand\nOFF # really\n\n4 1 0\n{ROWS}4 0 1 2 3 255 0 0\n",
        "COFF\n4 1 0\n" + ROWS.replace("\n", " 255 0 0 255\n") + "4 0 1 2 3\n",
        "NOFF\n4 1 0\n" + ROWS.replace("\n", " 0 0 1\n") + "4 0 1 2 3\n",
        "CNOFF4 1 0\n" + ROWS.replace("\n", " 0 0 1 9 9 9 9\n") + "4 0 1 2 3\n",
    ],
)
def test_off_variants(write, content):
    mesh = off.read(write("a.off", content))
    np.testing.assert_array_equal(mesh.vertices, SQUARE)
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize(
    "face", ["1 2 3 4", "1/5 2/6 3/7 4/8", "1//1 2//1 3//1 4//1", "1/1/1 2/2/1 3/3/1 4/4/1", "-4 -3 -2 -1"]
)
def test_obj_variants(write, face):
    content = "# c\nmtllib m.mtl\no square\n" + "".join(f"v {row}\n" for row in ROWS.splitlines())
    mesh = obj.read(write("a.obj", content + f"vn 0 0 1\nvt 0 0\ns off\nf {face}\n"))
    np.testing.assert_array_equal(mesh.vertices, SQUARE)
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3]])


def test_vertices_without_faces_are_a_cloud(write):
    np.testing.assert_array_equal(read_points(write("a.off", f"OFF\n4 0 0\n{ROWS}"), 100, 0), SQUARE)
    np.testing.assert_array_equal(read_points(write("a.off", f"OFF\n4 1 0\n{ROWS}2 0 1\n"), 100, 0), SQUARE)


def test_fan():
    assert fan([4, 5]) == []
    assert fan([4, 5, 6, 7, 8]) == [(4, 5, 6), (4, 6, 7), (4, 7, 8)]


def test_points_lie_evenly_on_the_surface():
    # two squares, one of nine times the area of the other
    vertices = np.array(SQUARE + [[10 + 3 * x, 3 * y, 1] for x, y, _ in SQUARE], dtype=float)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    points = sample_surface(Mesh(vertices, triangles), 40_000, 0, HERE)
    small = points[points[:, 0] < 5]
    # standard deviation of the share: sqrt(.1 * .9 / 40000) = .0015
    assert len(small) / 40_000 == pytest.approx(0.1, abs=0.007)
    assert np.all(small[:, 2] == 0)
    cells, *_ = np.histogram2d(*(points[points[:, 0] > 5, :2] - [10, 0]).T / 3, bins=4, range=[[0, 1], [0, 1]])
    assert cells.sum() == len(points) - len(small)
    # 2250 expected in a cell, standard deviation 46
    assert np.abs(cells - 2250).max() < 230


def test_sampling_is_seeded():
    mesh = Mesh(np.array(SQUARE, dtype=float), np.array([[0, 1, 2]]))
    first, again, other = (sample_surface(mesh, 50, seed, HERE) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_faces_without_area_or_with_nan_are_never_drawn():
    vertices = np.array([*SQUARE, [9, 9, 9], [np.nan, 0, 0]], dtype=float)
    triangles = np.array([[4, 4, 4], [0, 1, 5], [0, 1, 2], [4, 4, 4], [0, 4, 0]])
    points = sample_surface(Mesh(vertices, triangles), 500, 0, HERE)
    assert np.isfinite(points).all()
    assert points.max() <= 1


def test_index_out_of_range():
    with pytest.raises(DataError, match=r"a\.off: a face refers to vertex 9 .* of 4"):
        sample_surface(Mesh(np.array(SQUARE, dtype=float), np.array([[0, 1, 9]])), 5, 0, HERE)


def test_real_meshes(real_data):
    """Every sampled point of a real mesh lies on one of its triangles."""
    for path in sorted((real_data / "raw/shrec07_off").glob("*.off"))[:3]:
        mesh = off.read(path)
        header = path.read_text().split()[1:3]
        assert [len(mesh.vertices), len(mesh.triangles)] == [int(word) for word in header]
        points = read_points(path, 64, 3)
        corners = mesh.vertices[mesh.triangles]
        edges = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        normals = np.cross(*edges)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        corners, normals = corners[length[:, 0] > 0], (normals / np.maximum(length, 1e-30))[length[:, 0] > 0]
        for point in points:
            height = np.abs(((point - corners[:, 0]) * normals).sum(1))
            inside = [
                (np.cross(corners[:, (k + 1) % 3] - corners[:, k], point - corners[:, k]) * normals).sum(1) >= -1e-9
                for k in range(3)
            ]
            assert height[np.logical_and.reduce(inside)].min() < 1e-9


def test_spread_of_points_on_real_meshes(real_data):
    """Mean and deviation of 20,000 points are those of the surface, integrated exactly triangle by triangle."""
    for mesh_id in (1, 100, 200):
        path = real_data / f"raw/shrec07_off/{mesh_id}.off"
        mesh = off.read(path)
        corners = mesh.vertices[mesh.triangles]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        weight = (area / area.sum())[:, None]
        mean = (weight * corners.mean(axis=1)).sum(axis=0)
        square = (weight * ((corners**2).sum(axis=1) + corners.sum(axis=1) ** 2) / 12).sum(axis=0)
        points = read_points(path, 20_000, 0)
        deviation = np.sqrt(square - mean**2)
        # standard error of the mean: deviation / sqrt(20000), so 0.03 is four of them
        assert np.abs((points.mean(axis=0) - mean) / deviation).max() < 0.03
        np.testing.assert_allclose(points.std(axis=0), deviation, rtol=0.03)
