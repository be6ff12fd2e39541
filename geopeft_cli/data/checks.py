"""What must be true of the clouds of a published set before anything is trained on them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import MemoryClouds
from geopeft_cli.errors import DataError, MissingDataError

logger = logging.getLogger("geopeft")

Float32 = npt.NDArray[np.float32]

OBTAIN_AGAIN = "The file is damaged or another one; extract or obtain it again."


def checked_clouds(
    path: Path, points: npt.NDArray[Any], labels: npt.NDArray[Any], classes: Sequence[str], names: Sequence[str] = ()
) -> MemoryClouds:
    """The clouds of one file, all of one size, as they are.

    Args:
        path: the file, for messages.
        points: floats (M, n, 3).
        labels: integers (M,), or floats without a fraction.
        classes: names of the labels.
        names: what messages call the clouds; without them, the file's name and the index in it.

    Raises:
        DataError: other shapes or types, no cloud, a label out of range, or a coordinate that is NaN or infinite.
    """
    if points.dtype.kind != "f" or points.ndim != 3 or points.shape[2] != 3 or not points.size:
        raise DataError(
            f"{path}: the clouds are {points.dtype} {points.shape}, not floats (clouds, n, 3)", OBTAIN_AGAIN
        )
    if labels.dtype.kind not in "iuf" or labels.shape != points.shape[:1]:
        raise DataError(
            f"{path}: the labels are {labels.dtype} {labels.shape} for {len(points)} clouds, not integers (clouds,)",
            OBTAIN_AGAIN,
        )
    wrong = np.flatnonzero(~np.isin(labels, np.arange(len(classes))))
    if len(wrong):
        raise DataError(
            f"{path}: cloud {wrong[0]} has the label {labels[wrong[0]]}, not one of 0..{len(classes) - 1}", OBTAIN_AGAIN
        )
    for index, cloud in enumerate(points):
        if not np.isfinite(cloud).all():
            raise DataError(f"{path}: cloud {index} has a coordinate that is NaN or infinite", OBTAIN_AGAIN)
    names = names or [f"{path.name}[{index}]" for index in range(len(points))]
    return MemoryClouds(points.astype(np.float32, copy=False), labels.astype(np.int64), classes, names)


def checked_point_labels(
    where: str, labels: npt.NDArray[Any], points: int, allowed: Sequence[int], owner: str
) -> npt.NDArray[np.int64]:
    """The labels of the points of one cloud.

    Args:
        where: what a message calls the cloud.
        labels: integers (points,), or floats without a fraction.
        points: how many points the cloud has.
        allowed: what may be there.
        owner: whose labels these are, for the message; the category for example.

    Raises:
        DataError: another shape or type, or a label that is not allowed.
    """
    if labels.dtype.kind not in "iuf" or labels.shape != (points,):
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{where}: the labels of its {points} points are {found}, not integers ({points},)")
    wrong = np.flatnonzero(~np.isin(labels, allowed))
    if len(wrong):
        raise DataError(
            f"{where}: point {wrong[0]} has the label {labels[wrong[0]]:g}, which {owner} does not have",
            f"Labels of {owner} are {', '.join(map(str, allowed))}.",
        )
    return labels.astype(np.int64)


def lines_of_list(path: Path, expected: str) -> tuple[str, ...]:
    """The lines of a list of a published set, which are different from each other; blank ones are left out.

    Args:
        path: the list.
        expected: the hint where it is missing: which files the set has, and where it is to be had.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be read, is empty, or has a line twice.
    """
    if not path.is_file():
        missing = f"{path.parent}: has no {path.name}" if path.parent.is_dir() else f"{path.parent}: no such folder"
        raise MissingDataError(missing, expected)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", OBTAIN_AGAIN) from error
    if not lines:
        raise DataError(f"{path}: is empty", OBTAIN_AGAIN)
    [(line, times)] = Counter(lines).most_common(1)
    if times > 1:
        raise DataError(f"{path}: {line!r} stands there {times} times", OBTAIN_AGAIN)
    return tuple(lines)


def stacked(path: Path, clouds: Sequence[Any], size: int) -> Float32:
    """The first three columns of every cloud of a list, float32 (len(clouds), size, 3).

    Raises:
        DataError: one is not an array of floats with ``size`` rows and three columns or more; names it.
    """
    for index, cloud in enumerate(clouds):
        array = isinstance(cloud, np.ndarray)
        if not array or cloud.dtype.kind != "f" or cloud.ndim != 2 or len(cloud) != size or cloud.shape[1] < 3:
            found = f"{cloud.dtype} {cloud.shape}" if array else type(cloud).__name__
            raise DataError(f"{path}: cloud {index} is {found}, not floats ({size}, 6)", OBTAIN_AGAIN)
    points = np.empty((len(clouds), size, 3), dtype=np.float32)
    for place, cloud in zip(points, clouds, strict=True):
        place[:] = cloud[:, :3]
    return points


def whole_number(value: Any) -> int | None:
    """The integer in a Python number or an array of one; None for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iu":
        return int(value.item())
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def tell_of_count(path: Path, found: int, published: int, what: str = "clouds") -> None:
    """Warn when a file has another number of clouds than the literature's."""
    if found != published:
        logger.warning("%s has %d %s, the published set %d: results are not comparable", path, found, what, published)
