"""Labelled clouds of published sets in HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy.typing as npt

from geopeft_cli.data.checks import OBTAIN_AGAIN
from geopeft_cli.data.formats.arrays import DAMAGED, damaged
from geopeft_cli.errors import DataError


def data_and_label(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The arrays ``data`` and ``label`` of a file, as they are.

    Raises:
        DataError: the file is damaged, or has no such arrays.
    """
    found: list[npt.NDArray[Any]] = []
    try:
        with h5py.File(path, "r") as file:
            for name in ("data", "label"):
                if not isinstance(file.get(name), h5py.Dataset):
                    raise DataError(f"{path}: has no array {name!r}, only {', '.join(file) or 'nothing'}", OBTAIN_AGAIN)
                found.append(file[name][()])
    except DAMAGED as error:
        raise damaged(path, error) from error
    points, labels = found
    return points, labels
