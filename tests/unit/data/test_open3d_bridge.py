"""The readers that go through open3d, and what is said where it is absent."""

from __future__ import annotations

import builtins
import struct
import sys
import threading

import numpy as np
import pytest

from geopeft_cli.data.formats import open3d_bridge, read_points
from geopeft_cli.data.formats.written import write_ply
from geopeft_cli.errors import DataError, MissingDependencyError

CLOUD_HEADER = "ply\nformat {} 1.0\nelement vertex 3\nproperty {t} x\nproperty {t} y\nproperty {t} z\nend_header\n"
MESH_HEADER = CLOUD_HEADER.replace(
    "end_header", "element face {}\nproperty list uchar int vertex_indices\nend_header"
).replace("vertex 3", "vertex 4")
ASCII_CLOUD = CLOUD_HEADER.format("ascii", t="double")
SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
PCD = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\nHEIGHT 1\nPOINTS 3\nDATA binary\n"
STL = (
    "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid a\n"
)


@pytest.fixture
def broken_import(monkeypatch):
    """``broken_import(error)`` makes ``import open3d`` raise it."""

    def install(error):
        real = builtins.__import__

        def fake(name, *args, **kwargs):
            if name == "open3d":
                raise error
            return real(name, *args, **kwargs)

        monkeypatch.delitem(sys.modules, "open3d", raising=False)
        monkeypatch.setattr(builtins, "__import__", fake)

    return install


@pytest.mark.parametrize("library", ["libusb-1.0.so.0", "libGL.so.1", "libEGL.so.1", "libgomp.so.1"])
@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_missing_system_library(write, broken_import, library, kind):
    path = write("a.ply", ASCII_CLOUD + "0 0 0\n1 0 0\n0 1 0\n")
    broken_import(kind(f"{library}: cannot open shared object file: No such file or directory"))
    with pytest.raises(MissingDependencyError, match=library) as caught:
        read_points(path, 10, 0)
    assert caught.value.hint == "apt-get install libusb-1.0-0 libgl1 libegl1 libgomp1"


def test_missing_package(write, broken_import):
    path = write("a.stl", STL)
    broken_import(ModuleNotFoundError("No module named 'open3d'", name="open3d"))
    with pytest.raises(MissingDependencyError, match="needs open3d") as caught:
        read_points(path, 10, 0)
    assert caught.value.hint is not None
    assert "pip install open3d" in caught.value.hint


def test_only_this_threads_words_are_caught(capsys):
    """A progress bar in another thread is neither lost nor taken for a failure."""
    inside, printed = threading.Event(), threading.Event()

    def other():
        inside.wait(5)
        print("progress")
        printed.set()

    def read():
        inside.set()
        assert printed.wait(5)
        return "content"

    thread = threading.Thread(target=other)
    thread.start()
    assert open3d_bridge._heard("a.ply", read) == "content"
    thread.join()
    assert capsys.readouterr().out == "progress\n"


def test_words_of_a_reader_are_its_failure(capsys):
    with pytest.raises(DataError, match=r"^a.ply: \[Open3D WARNING\] Read PLY failed: no header.\n"):
        open3d_bridge._heard("a.ply", lambda: print("\x1b[1;33m[Open3D WARNING] Read PLY failed: no header.\x1b[0;m"))
    assert capsys.readouterr().out == ""


@pytest.mark.open3d
@pytest.mark.usefixtures("open3d_or_skip")
class TestWithOpen3d:
    def test_ply_cloud_in_double(self, write):
        points = read_points(write("ä b.ply", ASCII_CLOUD + "500000.123456 0 0\n1 0 0\nnan 0 0\n"), 10, 0)
        np.testing.assert_array_equal(points, [[500000.123456, 0, 0], [1, 0, 0]])

    def test_binary_ply_cloud(self, write):
        header = CLOUD_HEADER.format("binary_little_endian", t="float").encode()
        points = read_points(write("a.ply", header + struct.pack("<9f", *range(9))), 10, 0)
        np.testing.assert_array_equal(points, np.arange(9).reshape(3, 3))

    def test_ply_mesh_is_sampled(self, write):
        path = write("a.ply", MESH_HEADER.format("ascii", 1, t="float") + SQUARE + "4 0 1 2 3\n")
        points = read_points(path, 4000, 0)
        assert points.shape == (4000, 3)
        np.testing.assert_allclose(points.mean(axis=0), [0.5, 0.5, 0], atol=0.03)
        np.testing.assert_array_equal(points, read_points(path, 4000, 0))

    def test_stl_mesh_is_sampled(self, write):
        points = read_points(write("a.stl", STL), 4000, 0)
        np.testing.assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.02)

    def test_binary_pcd(self, write):
        values = [0, 1, 2, np.nan, np.nan, np.nan, 6, 7, 8]
        points = read_points(write("a.pcd", PCD.encode() + struct.pack("<9f", *values)), 10, 0)
        np.testing.assert_array_equal(points, [[0, 1, 2], [6, 7, 8]])

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("empty.ply", ""),
            ("garbage.ply", "garbage"),
            ("rows.ply", ASCII_CLOUD + "0 0 0\n1 0 0\n"),
            ("word.ply", ASCII_CLOUD + "0 0 0\n1 x 0\n0 0 1\n"),
            ("axes.ply", ASCII_CLOUD.replace(" y\n", " b\n") + "0 0 0\n1 1 0\n0 0 1\n"),
            ("binary.ply", CLOUD_HEADER.format("binary_little_endian", t="float").encode() + bytes(24)),
            ("faces.ply", MESH_HEADER.format("ascii", 2, t="float") + SQUARE + "4 0 1 2 3\n"),
            ("index.ply", MESH_HEADER.format("ascii", 1, t="float") + SQUARE + "3 0 1 9\n"),
            ("nan.ply", ASCII_CLOUD + "nan 0 0\n" * 3),
            ("empty.stl", ""),
            ("garbage.stl", "garbage"),
            ("cut.stl", STL[:90]),
            ("facet.stl", STL.removesuffix("endsolid a\n")),
            ("word.stl", STL.replace("vertex 1", "vertex x")),
            ("binary.stl", bytes(80) + struct.pack("<I12fH", 2, *range(12), 0)),
            ("binary.pcd", PCD.encode() + bytes(24)),
        ],
    )
    def test_broken_files_are_explained(self, write, capsys, name, content):
        path = write(name, content)
        with pytest.raises(DataError) as caught:
            read_points(path, 10, 0)
        assert str(path) in caught.value.message
        assert caught.value.hint
        assert capsys.readouterr().out == ""

    def test_real_compressed_pcd(self, real_data):
        path = real_data / "raw/mosd_pcd/learn0.pcd"
        points = read_points(path, 10, 0)
        assert np.isfinite(points).all()
        # 640 x 480 pixels, of which 124908 saw nothing
        assert len(points) == 640 * 480 - 124908
        assert 0.4 < np.median(points[:, 2]) < 2.5

    def test_real_pcd_cut_off_or_damaged(self, write, real_data):
        whole = (real_data / "raw/mosd_pcd/test0.pcd").read_bytes()
        for content in (whole[: len(whole) // 2], whole[:1000], whole[:300_000] + bytes(500) + whole[300_500:]):
            with pytest.raises(DataError, match=r"a\.pcd"):
                read_points(write("a.pcd", content), 10, 0)


@pytest.mark.open3d
@pytest.mark.usefixtures("open3d_or_skip")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_written_points_are_read_again(tmp_path, kind):
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(kind)
    write_ply(tmp_path / "a.ply", points, np.arange(40) % 3)
    np.testing.assert_array_equal(read_points(tmp_path / "a.ply", 0, 0), points)
