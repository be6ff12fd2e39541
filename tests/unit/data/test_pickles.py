"""Pickles of arrays: every protocol, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from geopeft_cli.data.formats.pickles import load_pickle
from geopeft_cli.errors import DataError

CONTENT = {
    "train": [(np.arange(12, dtype=np.float32).reshape(4, 3), 1, np.int32(4))],
    "test": [[np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)), np.array([3], dtype=np.int32)]],
    "more": [np.array(2.5, dtype=np.float16), np.array([True, False]), np.float64(0.1), "text", None, 2**80],
}


class Running:
    """Makes a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def same(left: object, right: object) -> None:
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, list | tuple):
        assert isinstance(right, list | tuple)
        assert type(left) is type(right)
        for pair in zip(left, right, strict=True):
            same(*pair)
    elif isinstance(left, dict):
        assert isinstance(right, dict)
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    else:
        assert left == right


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    same(CONTENT, load_pickle(path))


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpys_core(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "a.pkl"
    content = pickle.dumps(CONTENT, 2).replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
    assert b"c" + module + b".multiarray\n_reconstruct" in content
    path.write_bytes(content)
    same(CONTENT, load_pickle(path))


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Python 2 wrote the bytes of an array as a string, here ``U`` with its length."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    values = np.array([1.5, -2.0], dtype="<f4")
    path = tmp_path / "a.pkl"
    path.write_bytes(head + b"(K\x01K\x02\x85" + kind + b"\x89U\x08" + values.tobytes() + b"tb.")
    same(values, load_pickle(path))


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: [np.zeros(3), [bad]]], ids=["alone", "inside"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_program_is_refused_and_not_run(tmp_path: Path, wrap, protocol: int) -> None:
    path, made = tmp_path / "a.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps(wrap(Running(made)), protocol))
    with pytest.raises(DataError, match=r"a\.pkl wants to use \w+\.mkdir on loading; nothing of it was run") as caught:
        load_pickle(path)
    assert "Do not trust this file" in str(caught.value.hint)
    assert not made.exists()
    pickle.loads(path.read_bytes())
    assert made.exists()


@pytest.mark.parametrize(
    "thing", [eval, print, slice(3), np.load, np.random.default_rng(0), Path("a"), {1, 2}.__class__]
)
def test_anything_but_arrays_is_refused(tmp_path: Path, thing: object) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([thing]))
    with pytest.raises(DataError, match="nothing of it was run"):
        load_pickle(path)


def test_names_that_hide_behind_offered_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.")
    with pytest.raises(DataError, match=r"numpy\.ndarray\.dumps on loading"):
        load_pickle(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Ran out of input"),
        (b"hello", "cannot be read"),
        (pickle.dumps(CONTENT)[:-40], "cannot be read"),
        (pickle.dumps(np.array([object()])), "an array is of type 'O8', not of numbers"),
        (pickle.dumps(np.array(["a"])), "an array is of type 'U1'"),
        (pickle.dumps(np.zeros(2, dtype=[("x", "f4")])), "an array is of type 'V4'"),
        (pickle.dumps(np.zeros((4, 3)), 4).replace(b"K\x04K\x03\x86", b"K\x04K\x04\x86"), "cannot reshape"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "bytes are encoded as 'rot13'"),
        (b"cnumpy\nndarray\n(K\x01tR.", "not callable"),
        (b"\x80\x02]q\x00h\x00a.", "recursion"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pkl: cannot be read: ") as caught:
        load_pickle(path)
    assert reason in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_pickle(tmp_path / "a.pkl")


def test_repetitions_do_not_grow(tmp_path: Path) -> None:
    nested: list[object] = []
    for _ in range(60):
        nested = [nested, nested]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(nested))
    loaded = load_pickle(path)
    assert loaded[0] is loaded[1]
