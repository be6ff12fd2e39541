"""Readers that need nothing but numpy: what they accept and how they fail."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from geopeft_cli.data.formats import READERS, read_points
from geopeft_cli.errors import DataError

POINTS = np.array([[0, 0, 0], [1, 2, 3], [-4, 5.5, 6e-3]])
TEXT = "0 0 0\n1 2 3\n-4 5.5 6e-3\n"


def read(path: Path, samples: int = 100, seed: int = 0) -> np.ndarray:
    return read_points(path, samples, seed)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xyz", TEXT),
        ("a.XYZ", TEXT),
        ("a.txt", TEXT.replace(" ", ",")),
        ("a.txt", TEXT.replace(" ", ", ")),
        ("a.txt", TEXT.replace(" ", "\t").replace("\n", "\r\n")),
        ("a.txt", TEXT.rstrip("\n")),
        ("a.pts", "3\n" + TEXT),
        ("a.pts", TEXT),
        ("a.txt", "//X Y Z\n3\n" + TEXT),
        ("a.xyz", "\ufeff# header\n\n" + TEXT.replace("\n", " 9 chair # note\n")),
        ("a.xyz", TEXT + "nan 0 0\n1 inf 2\n"),
    ],
)
def test_text_clouds(write, name, content):
    points = read(write(name, content))
    assert points.dtype == np.float64
    np.testing.assert_array_equal(points, POINTS)


def test_survey_coordinates_keep_their_millimeters(write):
    points = read(write("a.xyz", "500000.001 5400000.002 100.003\n500000.002 5400000.001 100.001\n"))
    np.testing.assert_allclose(points[0] - points[1], [-0.001, 0.001, 0.002], atol=1e-8)


def test_dropped_points_are_counted(write, caplog):
    with caplog.at_level(logging.INFO, "geopeft"):
        read(write("a.xyz", TEXT + "nan nan nan\n"))
    assert "a.xyz: left out 1 of 4 points" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "", "a.xyz: holds no points"),
        ("a.xyz", "# only\n# comments\n", "a.xyz: holds no points"),
        ("a.xyz", "nan nan nan\nnan 0 0\n", "all 2 points are NaN"),
        ("a.xyz", "# c\n0 0 0\n\n1 2\n", "a.xyz:4: 2 columns"),
        ("a.txt", "x y z\n0 0 0\n", "a.txt:1: 'x' is not a number"),
        ("a.txt", "0 0 0\n1,2,three\n", "a.txt:2: 'three' is not a number"),
        ("a.xyz", b"0 0 0\n\xff\xfe\x00 1 2\n", "a.xyz:2: "),
        ("a.pts", "4\n" + TEXT, "announces 4 points, it holds 3"),
        ("a.las", TEXT, "unknown suffix '.las'"),
        ("a.off", "", "starts with OFF"),
        ("a.off", "ply\n", "starts with OFF"),
        ("a.off", "4OFF\n1 0 0\n0 0 0 0\n", "starts with OFF"),
        ("a.off", "OFF\n", "numbers of vertices and faces"),
        ("a.off", "OFF\nx 1 0\n", "a.off:2: expected the numbers of vertices and faces"),
        ("a.off", "OFF\n0 0 0\n", "holds no points"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n", "announces 3 vertices and 1 faces and ends after 3 lines"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 q 0\n0 1 0\n3 0 1 2\n", "a.off:4: 'q' is not a number"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "a.off:6: a face refers to a vertex outside 0..2"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -1\n", "a.off:6: a face refers to a vertex outside 0..2"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1\n", "a.off:6: not a face: 3 corners announced, 2 given"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\nthree\n", "a.off:6: not a face"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n", "faces have no area"),
        ("a.obj", "", "holds no points"),
        ("a.obj", "v 0 0 0\nv 1 x 0\n", "a.obj:2: 'x' is not a number"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "a.obj:4: a face refers to vertex 4"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "a.obj:4: a face refers to vertex 0"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -4 1 2\n", "a.obj:4: a face refers to vertex -4"),
        ("a.obj", "v 0 0 0\nf a b c\n", "a.obj:2: 'a' is not a corner"),
        ("a.npy", b"", "a.npy: cannot be read"),
        ("a.npy", b"\x80\x04K\x01.", "a.npy: cannot be read"),
        ("a.npz", b"PK\x03\x04garbage", "a.npz: cannot be read"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "a.h5: cannot be read"),
        ("a.pcd", "", "has no PCD header"),
        ("a.pcd", "FIELDS a b\nCOUNT 1 1\nPOINTS 1\nDATA ascii\n1 2\n", "without x, y and z"),
    ],
)
def test_broken_files_are_explained(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_missing_file(tmp_path):
    for suffix in READERS:
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / f"none{suffix}")


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "a.xyz").mkdir()
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "a.xyz")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_npy(tmp_path, dtype):
    points = np.arange(12).reshape(3, 4).astype(dtype)
    np.save(tmp_path / "a.npy", points)
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), points[:, :3])


@pytest.mark.parametrize("name", ["points", "data", "xyz", "whatever"])
def test_npz_and_hdf5(tmp_path, name):
    np.savez(tmp_path / "a.npz", **{name: POINTS})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = POINTS.astype(np.float32)
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), POINTS)
    np.testing.assert_array_equal(read(tmp_path / "a.h5"), POINTS.astype(np.float32))


def test_points_are_preferred_to_other_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", normals=-POINTS, points=POINTS)
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), POINTS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3)), r"shape \(4, 5, 3\)"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
        (np.zeros(6), r"shape \(6,\)"),
        (np.zeros((4, 3), dtype=complex), "does not hold numbers"),
        (np.zeros((0, 3)), "holds no points"),
        (np.full((2, 3), np.nan), "all 2 points are NaN"),
    ],
)
def test_arrays_of_other_shapes_and_types(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", points=array)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = array
    for name in ("a.npy", "a.npz", "a.h5"):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


def test_unnamed_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", first=POINTS, second=POINTS)
    with pytest.raises(DataError, match=r"none of its arrays .first, second."):
        read(tmp_path / "a.npz")


def test_python_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
def test_files_cut_off_anywhere(tmp_path, name):
    points = np.random.default_rng(0).normal(size=(50, 3))
    if name == "a.npy":
        np.save(tmp_path / name, points)
    elif name == "a.npz":
        np.savez_compressed(tmp_path / name, points=points)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = points
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


PCD = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS rgb n x y z\nSIZE 4 4 8 8 8\nTYPE U F F F F\nCOUNT 1 2 1 1 1\nWIDTH 3\nHEIGHT 1\n"
)


def test_text_pcd(write):
    rows = "7 0 1 500000.123456789 0 0\n7 0 1 nan nan nan\n7 0 1 1 2 3\n"
    points = read(write("a.pcd", PCD + "POINTS 3\nDATA ascii\n" + rows))
    np.testing.assert_array_equal(points, [[500000.123456789, 0, 0], [1, 2, 3]])


def test_text_pcd_cut_off(write):
    with pytest.raises(DataError, match="announces 3 points, holds 1"):
        read(write("a.pcd", PCD + "POINTS 3\nDATA ascii\n7 0 1 4 5 6\n"))
    with pytest.raises(DataError, match=r"a\.pcd:11: 'q' is not a number"):
        read(write("a.pcd", PCD + "POINTS 3\nDATA ascii\n7 0 1 4 q 6\n"))


def test_real_survey_text(real_data):
    points = read(real_data / "raw/dales_xyz/000.xyz")
    assert points.shape[1] == 3
    assert len(points) == len((real_data / "raw/dales_xyz/000.xyz").read_text().strip().splitlines())
    np.testing.assert_allclose(points[0], [20.06999969482422, 499.9599914550781, 17.45000076293945], rtol=0)


def test_real_layout_with_colors(real_data):
    assert read(real_data / "raw/s3dis_layout/Area_1/Park_1/Annotations/ground_1.txt").shape[1] == 3
