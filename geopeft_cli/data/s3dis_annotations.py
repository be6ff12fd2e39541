"""Rooms of S3DIS as given out: ``Area_5/office_1/Annotations/chair_3.txt`` with lines x y z r g b, an object a file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from geopeft_cli.data.checks import OBTAIN_AGAIN
from geopeft_cli.data.formats import text
from geopeft_cli.errors import DataError, GeopeftError
from geopeft_cli.storage import cache_folder, new_file

logger = logging.getLogger("geopeft")

FOLDER = "geopeft_rooms"
COLUMNS = 6
STRAY = (
    "The published archive has a stray character in a line of Area_5/hallway_6; repair the line by hand. "
    "Other files are damaged: extract the archive again."
)


def rooms_of_annotations(root: Path, classes: Sequence[str]) -> list[Path]:
    """An array file of each room, made once: rows x y z r g b label, float32, the lowest coordinates 0.

    They are kept in ``root``, or in the user's cache folder where nothing can be written there, and made anew where an
    object is younger. The class of an object is its file's name up to the last ``_``; unknown ones are the last class.

    Args:
        root: the folder ``Stanford3dDataset_v1.2_Aligned_Version``.
        classes: names of the labels, "clutter" last.

    Returns:
        ``Area_5_office_1.npy`` and so on; empty where there are no annotations.

    Raises:
        DataError: a damaged file, or a room without objects.
        GeopeftError: they cannot be kept anywhere.
    """
    folders = [path for path in sorted(root.glob("Area_*/*/Annotations")) if path.is_dir()]
    unknown: set[str] = set()
    rooms = [_room(root, folder, classes, unknown) for folder in tqdm(folders, "rooms", leave=False, disable=None)]
    if unknown:
        logger.warning("%s: objects that count as %s: %s", root, classes[-1], ", ".join(sorted(unknown)))
    return rooms


def _room(root: Path, folder: Path, classes: Sequence[str], unknown: set[str]) -> Path:
    objects = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if not objects:
        raise DataError(f"{folder}: has no <class>_<number>.txt", OBTAIN_AGAIN)
    name = f"{folder.parent.parent.name}_{folder.parent.name}.npy"
    own = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    places = (root / FOLDER / name, cache_folder() / f"s3dis_{own}" / name)
    newest = max(path.stat().st_mtime_ns for path in objects)
    for place in places:
        if place.is_file() and place.stat().st_mtime_ns >= newest:
            return place
    rows = np.concatenate([_object(path, classes, unknown) for path in objects])
    rows[:, :3] -= rows[:, :3].min(axis=0)
    return _keep(places, rows.astype(np.float32))


def _object(path: Path, classes: Sequence[str], unknown: set[str]) -> npt.NDArray[np.float64]:
    name = path.stem.rpartition("_")[0] or path.stem
    if name not in classes:
        unknown.add(name)
        name = classes[-1]
    try:
        rows = text.read_table(path, COLUMNS)
    except DataError as error:
        raise DataError(error.message, STRAY) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", OBTAIN_AGAIN) from error
    return np.column_stack([rows, np.full(len(rows), classes.index(name))])


def _keep(places: Sequence[Path], rows: npt.NDArray[Any]) -> Path:
    for place in places[:-1]:
        try:
            return _written(place, rows)
        except GeopeftError as error:
            logger.info("%s; it is kept in %s", error.message, places[-1].parent)
    return _written(places[-1], rows)


def _written(place: Path, rows: npt.NDArray[Any]) -> Path:
    with new_file(place) as partial:
        np.save(partial, rows)
    return place
