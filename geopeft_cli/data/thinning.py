"""Text files of clouds, thinned by farthest point sampling once and kept in an ``.npz`` file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from geopeft_cli.data.checks import OBTAIN_AGAIN, Float32
from geopeft_cli.data.clouds import Labels
from geopeft_cli.data.formats import text
from geopeft_cli.data.formats.arrays import load_numpy
from geopeft_cli.errors import DataError, GeopeftError
from geopeft_cli.geometry.sampling import farthest_point_sample
from geopeft_cli.storage import cache_folder, new_file

logger = logging.getLogger("geopeft")


def thinned(root: Path, stem: str, ids: Sequence[str], labels: Labels, files: Sequence[Path], size: int) -> Float32:
    """``size`` points of each file: farthest point sampling from the first point, which no point is exempt from.

    They are kept in ``root``, or in the user's cache folder where nothing can be written there, and read from there
    as long as no file has another size or time of change.

    Args:
        root: the folder of the data set.
        stem: begins the name of the kept file.
        ids: names of the clouds.
        labels: int64 (len(ids),).
        files: where the clouds are; ``x, y, z`` first in every line.
        size: how many points.

    Returns:
        float32 (len(ids), size, 3).

    Raises:
        DataError: a file is missing, damaged, or has fewer points.
    """
    fingerprint = _fingerprint(root, ids, labels, files, size)
    places = (
        root / f"{stem}_{size}pts_geopeft.npz",
        cache_folder() / f"{stem}_{size}pts_{fingerprint[:16]}.npz",
    )
    for place in places:
        points = _kept(place, fingerprint)
        if points is not None and points.shape == (len(ids), size, 3) and points.dtype == np.float32:
            return points
    logger.info("%s: thinning %d text files to %d points, once", root, len(files), size)
    points = np.empty((len(files), size, 3), dtype=np.float32)
    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        done = workers.map(partial(_thin, size=size), files)
        for index, cloud in enumerate(tqdm(done, stem, len(files), leave=False, disable=None)):
            points[index] = cloud
    _keep(places, points, labels, ids, fingerprint)
    return points


def _thin(path: Path, size: int) -> Float32:
    try:
        points = text.read(path).astype(np.float32)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", OBTAIN_AGAIN) from error
    if len(points) < size:
        raise DataError(f"{path}: has {len(points)} points, fewer than {size}", OBTAIN_AGAIN)
    if not np.isfinite(points).all():
        raise DataError(f"{path}: has a coordinate that is NaN or infinite", OBTAIN_AGAIN)
    picks = farthest_point_sample(torch.from_numpy(points)[None], size, near_origin="keep")
    thin: Float32 = points[picks[0].numpy()]
    return thin


def _fingerprint(root: Path, ids: Sequence[str], labels: Labels, files: Sequence[Path], size: int) -> str:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(files)} listed files are missing, the first is {missing[0]}",
            "Extract the archive again.",
        )
    states = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([size, list(ids), labels.tolist(), states]).encode()).hexdigest()


def _kept(place: Path, fingerprint: str) -> Float32 | None:
    if not place.is_file():
        return None
    try:
        arrays = load_numpy(place)
    except DataError as error:
        logger.warning("%s; it is made anew", error.message)
        return None
    if not isinstance(arrays, dict) or str(arrays.get("fingerprint")) != fingerprint:
        return None
    return arrays.get("points")


def _keep(places: Sequence[Path], points: Float32, labels: Labels, ids: Sequence[str], fingerprint: str) -> None:
    for place in places:
        try:
            with new_file(place) as partial_file:
                np.savez(partial_file, points=points, label=labels, ids=np.array(ids), fingerprint=fingerprint)
            return
        except GeopeftError as error:
            reason = error.message
    logger.warning("%s; the text files will be thinned again next time", reason)
