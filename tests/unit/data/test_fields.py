"""Files with any fields for their points: every format gives the same, damaged files are named."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geopeft_cli.data.formats.fields import read_fields
from geopeft_cli.errors import DataError, MissingDependencyError

Write = Callable[[str, str | bytes], Path]
POINTS = 5
RECORD = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("kind", "<i2")])


@pytest.fixture
def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    table = np.zeros(POINTS, RECORD)
    for axis in "xyz":
        table[axis] = rng.random(POINTS)
    table["red"], table["kind"] = rng.integers(0, 256, POINTS), rng.integers(-1, 300, POINTS)
    return table


def text_rows(table: np.ndarray) -> str:
    return "".join(" ".join(repr(value.item()) for value in row) + "\n" for row in table)


def ply(table: np.ndarray, form: str) -> bytes:
    names = {"f4": "float", "u1": "uchar", "i2": "short"}
    properties = "".join(f"property {names[RECORD[name].str[1:]]} {name}\n" for name in RECORD.names or ())
    header = f"ply\nformat {form} 1.0\ncomment any\nelement vertex {len(table)}\n{properties}"
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    if form == "ascii":
        return (header + text_rows(table)).encode()
    order = "<" if "little" in form else ">"
    return header.encode() + table.astype(RECORD.newbyteorder(order)).tobytes()


def pcd(table: np.ndarray, form: str) -> bytes:
    header = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z red kind\nSIZE 4 4 4 1 2\nTYPE F F F U I\nCOUNT 1 1 1 1 1\n"
    header += f"WIDTH {POINTS}\nHEIGHT 1\nPOINTS {POINTS}\nDATA {form}\n"
    return header.encode() + (text_rows(table).encode() if form == "ascii" else table.tobytes())


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply(table: np.ndarray, write: Write, form: str) -> None:
    same(read_fields(write("a.ply", ply(table, form))), table)


@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_pcd(table: np.ndarray, write: Write, form: str) -> None:
    same(read_fields(write("a.pcd", pcd(table, form))), table)


@pytest.mark.parametrize(
    ("name", "head"), [("a.txt", "x y z red kind\n"), ("a.csv", "//X Y Z Red Kind\n"), ("a.xyz", "# all columns\n")]
)
def test_text(table: np.ndarray, write: Write, name: str, head: str) -> None:
    body = text_rows(table)
    path = write(name, head + (body.replace(" ", ",") if name == "a.csv" else body))
    same(read_fields(path, [] if "x" in head.lower().split() or "//" in head else list(RECORD.names or ())), table)


def test_arrays(table: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{name: table[name] for name in RECORD.names or ()})
    same(read_fields(tmp_path / "a.npz"), table)
    np.save(tmp_path / "a.npy", table)
    same(read_fields(tmp_path / "a.npy"), table)
    plain = np.stack([table[name].astype(float) for name in RECORD.names or ()], axis=1)
    np.save(tmp_path / "b.npy", plain)
    same(read_fields(tmp_path / "b.npy", RECORD.names or ()), table)


def same(fields: dict[str, np.ndarray], table: np.ndarray) -> None:
    assert list(fields) == list(RECORD.names or ())
    for name, values in fields.items():
        assert values.dtype.isnative
        assert np.array_equal(values, table[name])


def test_packed_colors_of_pcd(write: Write) -> None:
    header = "VERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\nPOINTS 1\nDATA ascii\n"
    fields = read_fields(write("a.pcd", header + f"1 2 3 {0x102030}\n"))
    assert [int(fields[name][0]) for name in ("red", "green", "blue")] == [0x10, 0x20, 0x30]


def test_usual_columns_and_a_count_in_the_first_line(write: Write) -> None:
    fields = read_fields(write("a.pts", "2\n0 0 1 9 8 7 3\n0 1 1 9 8 7 4\n"))
    assert fields["label"].tolist() == [3, 4]
    assert fields["blue"].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1 2 3 4 5\n", "5 columns and no names"),
        ("a.txt", "", "no points"),
        ("a.txt", "1 2 3\n1 2 x\n", "a.txt:2"),
        ("a.dat", "1 2 3\n", "unknown suffix"),
        ("a.npz", b"no zip", "cannot be read"),
        ("a.ply", "play", "no PLY header"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n", "2 vertices, holds 1"),
        ("a.ply", "ply\nformat ascii 1.0\nelement face 2\nproperty float x\nend_header\n", "begin with vertices"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex many\nproperty float x\nend_header\n", "'many'"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n", "plain numbers"),
        ("a.pcd", "FIELDS x\nSIZE 4\nTYPE Q\nPOINTS 1\nDATA ascii\n1\n", "header cannot be read"),
        ("a.pcd", "FIELDS x\nSIZE 4\nTYPE F\nPOINTS 3\nDATA ascii\n1\n", "announces 3 points, holds 1"),
        ("a.pcd", "FIELDS x\nSIZE 4\nTYPE F\nPOINTS 3\nDATA binary\n12345678", "announces 3 points, holds 2"),
    ],
)
def test_damaged_files_are_named(write: Write, name: str, content: str | bytes, message: str) -> None:
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_fields(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_fields(tmp_path / "a.ply")


def test_cut_off_binary_ply(table: np.ndarray, write: Write) -> None:
    with pytest.raises(DataError, match="5 vertices, holds 4"):
        read_fields(write("a.ply", ply(table, "binary_little_endian")[:-3]))


def test_las_without_laspy(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(MissingDependencyError, match="needs laspy") as caught:
        read_fields(write("a.las", b"LASF"))
    assert caught.value.hint == "pip install geopeft[las]"


def test_las_dimensions(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scan(dict):  # type: ignore[type-arg]
        point_format = types.SimpleNamespace(dimension_names=["X", "Y", "Z", "red", "green", "blue", "classification"])

    values = {"x": [0.5], "y": [1.5], "z": [2.5], "X": [5], "red": [65535], "green": [256], "blue": [0]}
    scan = Scan({name: np.array(value) for name, value in values.items()} | {"classification": np.array([6])})
    monkeypatch.setitem(sys.modules, "laspy", types.SimpleNamespace(read=lambda path: scan))
    fields = read_fields(write("a.laz", b"LASF"))
    assert {name: field[0].item() for name, field in fields.items()} == {
        "x": 0.5,
        "y": 1.5,
        "z": 2.5,
        "red": 255,
        "green": 1,
        "blue": 0,
        "classification": 6,
    }


@pytest.mark.open3d
@pytest.mark.usefixtures("open3d_or_skip")
def test_a_real_compressed_scan(real_data: Path) -> None:
    fields = read_fields(real_data / "raw/mosd_pcd/learn0.pcd")
    assert {len(field) for field in fields.values()} == {307200}
    assert set(np.unique(fields["label"]).tolist()) == {0, 1, 20, 30}
    assert fields["red"].dtype == np.uint8
    assert np.isnan(fields["x"]).any()
