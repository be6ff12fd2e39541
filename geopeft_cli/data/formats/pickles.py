"""Pickled lists of arrays, read without running anything in them.

A pickle is a program, and the published data sets are pickles. This reader offers the program nothing of Python or
numpy to call: only the functions in ``_OFFERED``, which note what an array should be. The arrays are made from these
notes with ``np.frombuffer``.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.errors import DataError


def load_pickle(path: Path) -> Any:
    """The lists, tuples, dicts, texts, numbers and arrays of numbers in a pickle of any protocol and Python version.

    Raises:
        DataError: the file cannot be read, is damaged, or asks for anything else; nothing of it has been run.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Restricted(file, encoding="latin1").load(), {})
    except _RefusedError as error:
        raise DataError(
            f"{path} wants to use {error} on loading; nothing of it was run",
            "A data set is lists and numpy arrays. Do not trust this file; obtain it from its authors.",
        ) from None
    except Exception as error:  # whatever a damaged pickle makes the interpreter raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read: {reason}", "The file is cut off, damaged or no pickle; copy it again."
        ) from None


class _RefusedError(Exception):
    """A pickle asks for a name that it is not offered."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 calls numpy.core numpy._core
        found = _OFFERED.get((module.replace("numpy._core.", "numpy.core."), name))
        if found is None:
            raise _RefusedError(f"{module}.{name}")
        return found


class _Type:
    """The note of a dtype: a code such as ``f4`` and the byte order."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str) -> None:
        if re.fullmatch(r"b1|[fiu][1248]", code) is None:
            raise ValueError(f"an array is of type {code!r}, not of numbers")
        self._code, self._order = code, "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self._order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(f"{self._order}{self._code}")


class _Array:
    """The note of an array, which becomes the array with its state."""

    __slots__ = ("value",)

    value: npt.NDArray[Any]

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _array(content, dtype, shape, "F" if fortran else "C")


def _array(content: bytes | str, dtype: _Type, shape: Sequence[int], order: Any) -> npt.NDArray[Any]:
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin1")
    return np.frombuffer(content, dtype.numpy()).reshape(shape, order=order)


def _type(code: str, *_: Any) -> _Type:
    return _Type(code)


def _empty(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: bytes, dtype: _Type, shape: Sequence[int], order: str) -> _Array:
    made = _Array()
    made.value = _array(content, dtype, shape, order)
    return made


def _scalar(dtype: _Type, content: bytes | str) -> Any:
    return _array(content, dtype, (), "C").item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes are encoded as {encoding!r}")
    return text.encode("latin1")


_OFFERED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only ever handed to _reconstruct
    ("numpy", "dtype"): _type,
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


def _plain(item: Any, made: dict[int, Any]) -> Any:
    """The content with arrays for notes; ``made`` keeps a thing that stands in many places from being copied."""
    if isinstance(item, _Array):
        return item.value
    if not isinstance(item, list | tuple | dict):
        return item
    if id(item) not in made:
        if isinstance(item, dict):
            made[id(item)] = {key: _plain(value, made) for key, value in item.items()}
        else:
            made[id(item)] = type(item)(_plain(value, made) for value in item)
    return made[id(item)]
