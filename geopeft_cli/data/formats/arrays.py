"""One cloud in a NumPy or HDF5 file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from geopeft_cli.errors import DataError

NAMES = ("points", "data", "xyz")
"""What the array with the points may be called."""

DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What numpy and h5py raise for files that are cut off, damaged, or would have to be unpickled."""


def read_npy(path: Path) -> npt.NDArray[np.float64]:
    """An array (n, 3) or wider, of which the first three columns count."""
    return _columns(path, load_numpy(path), "the array")


def read_npz(path: Path) -> npt.NDArray[np.float64]:
    """The array called ``points``, ``data`` or ``xyz``, or the only one."""
    arrays = load_numpy(path)
    name = _pick(path, list(arrays))
    return _columns(path, arrays[name], name)


def read_hdf5(path: Path) -> npt.NDArray[np.float64]:
    """The dataset called ``points``, ``data`` or ``xyz``, or the only one at the top."""
    try:
        with h5py.File(path, "r") as file:
            name = _pick(path, [name for name, item in file.items() if isinstance(item, h5py.Dataset)])
            return _columns(path, file[name][()], name)
    except DAMAGED as error:
        raise damaged(path, error) from error


def load_numpy(path: Path) -> Any:
    """The array of an .npy file, or a dict with all arrays of an .npz file; never unpickles.

    Raises:
        DataError: missing, damaged, or holding Python objects.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            return {name: content[name] for name in content.files}
    except DAMAGED as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> DataError:
    """What to say of a file that raised one of ``DAMAGED``."""
    return DataError(
        f"{path}: cannot be read: {error}",
        "The file is missing, cut off, or holds Python objects; copy it again, or save plain arrays.",
    )


def _pick(path: Path, names: list[str]) -> str:
    for name in NAMES:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise DataError(f"{path}: none of its arrays ({', '.join(names)}) is called {' or '.join(NAMES)}", "Rename one.")


def _columns(path: Path, array: Any, name: str) -> npt.NDArray[np.float64]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"{path}: {name} does not hold numbers", "A cloud is an array of floats (n, 3).")
    if array.ndim != 2 or array.shape[1] < 3:
        hint = "For many clouds in one file use `format: packed`." if array.ndim == 3 else "A cloud is (n, 3) or wider."
        raise DataError(f"{path}: {name} has the shape {array.shape}, not (n, 3)", hint)
    return array[:, :3].astype(np.float64)
