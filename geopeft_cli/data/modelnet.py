"""ModelNet40 and ModelNet10 (Wu et al., 2015) in their published splits, mostly as ``modelnet40_normal_resampled``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from geopeft_cli.data.checks import (
    OBTAIN_AGAIN,
    Float32,
    checked_clouds,
    lines_of_list,
    stacked,
    tell_of_count,
    whole_number,
)
from geopeft_cli.data.clouds import Labels, MemoryClouds, Splits
from geopeft_cli.data.formats.pickles import load_pickle
from geopeft_cli.data.modelnet_hdf5 import FOLDER, is_hdf5_layout, modelnet_hdf5_splits
from geopeft_cli.data.splitting import hold_out, require_trained
from geopeft_cli.data.thinning import thinned
from geopeft_cli.errors import DataError, MissingDataError

STORED_POINTS = 8192
"""Points of a cloud in the released caches, and so in ours."""

PUBLISHED = {(40, "train"): 9843, (40, "test"): 2468, (10, "train"): 3991, (10, "test"): 908}
"""Clouds of each part in the published lists."""

CLASSES = (
    *("airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone", "cup", "curtain"),
    *("desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel"),
    *("monitor", "night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa", "stairs"),
    *("stool", "table", "tent", "toilet", "tv_stand", "vase", "wardrobe", "xbox"),
)
"""Of ModelNet40, in the order of the labels."""


def modelnet_splits(root: str | Path, classes: Literal[40, 10], validation: float, seed: int) -> Splits:
    """The published training and test split, 8192 points a cloud, coordinates as in the files.

    A part is read from the released cache ``modelnet40_train_8192pts_fps.dat`` where there is one, else from the text
    files (see :func:`geopeft_cli.data.thinning.thinned`). The lists are read in both cases. ModelNet40 may be in HDF5
    files instead, with 2048 points a cloud (see :func:`geopeft_cli.data.modelnet_hdf5.modelnet_hdf5_splits`).

    Args:
        root: the folder ``modelnet40_normal_resampled``, or ``modelnet40_ply_hdf5_2048``.
        classes: which of the two sets.
        validation: share of every class of the training split; 0 for none.
        seed: of the draw of the validation split.

    Raises:
        MissingDataError: there is no such folder, list, or neither cache nor text files.
        DataError: a file is damaged or does not agree with the lists.
    """
    root, stem = Path(root), f"modelnet{classes}"
    if classes == 40 and is_hdf5_layout(root):
        return modelnet_hdf5_splits(root, validation, seed)
    names = _class_names(root, stem, classes)
    _refuse_overlap(root, stem)
    train, test = (_part(root, stem, part, names, PUBLISHED[classes, part]) for part in ("train", "test"))
    require_trained(names, train.labels(), "test", test.labels())
    return Splits(*hold_out(train, validation, seed), test)


def _class_names(root: Path, stem: str, count: int) -> tuple[str, ...]:
    path = root / f"{stem}_shape_names.txt"
    names = lines_of_list(path, _expected(stem))
    if len(names) != count:
        raise DataError(f"{path}: {len(names)} classes, not {count}", OBTAIN_AGAIN)
    return names


def _part(root: Path, stem: str, part: Literal["train", "test"], names: Sequence[str], published: int) -> MemoryClouds:
    path = root / f"{stem}_{part}.txt"
    ids = lines_of_list(path, _expected(stem))
    labels = _labels(path, ids, names)
    tell_of_count(path, len(ids), published)
    cache = root / f"{stem}_{part}_{STORED_POINTS}pts_fps.dat"
    if cache.is_file():
        return checked_clouds(cache, _released(cache, path, ids, labels), labels, names, ids)
    files = [root / names[label] / f"{name}.txt" for name, label in zip(ids, labels, strict=True)]
    if not any(file.is_file() for file in files):
        raise MissingDataError(f"{root}: has neither {cache.name} nor the text files of {path.name}", _expected(stem))
    points = thinned(root, f"{stem}_{part}", ids, labels, files, STORED_POINTS)
    return checked_clouds(path, points, labels, names, ids)


def _refuse_overlap(root: Path, stem: str) -> None:
    lists = [root / f"{stem}_{part}.txt" for part in ("train", "test")]
    train, test = (lines_of_list(path, _expected(stem)) for path in lists)
    both = set(train) & set(test)
    if both:
        raise DataError(f"{root}: {min(both)} is in {lists[0].name} and in {lists[1].name}", OBTAIN_AGAIN)


def _labels(path: Path, ids: Sequence[str], names: Sequence[str]) -> Labels:
    """The class of ``night_stand_0001`` is ``night_stand``."""
    known = {name: label for label, name in enumerate(names)}
    for line in ids:
        if line.rpartition("_")[0] not in known:
            raise DataError(f"{path}: {line!r} is of none of the {len(names)} classes", OBTAIN_AGAIN)
    return np.array([known[line.rpartition("_")[0]] for line in ids], dtype=np.int64)


def _released(path: Path, listed: Path, ids: Sequence[str], labels: Labels) -> Float32:
    """The clouds of a released cache: a pickle of the list of clouds and the list of labels, in the lists' order."""
    content = load_pickle(path)
    if not isinstance(content, list | tuple) or [type(part) for part in content] != [list, list]:
        raise DataError(f"{path}: does not hold a list of clouds and a list of labels", OBTAIN_AGAIN)
    clouds, given = content
    if not len(clouds) == len(given) == len(ids):
        raise DataError(
            f"{path}: {len(clouds)} clouds and {len(given)} labels, where {listed.name} lists {len(ids)}", OBTAIN_AGAIN
        )
    for index, (value, label) in enumerate(zip(given, labels, strict=True)):
        if whole_number(value) != label:
            raise DataError(
                f"{path}: cloud {index} has the label {value}, where {listed.name} says {ids[index]}, which is {label}",
                OBTAIN_AGAIN,
            )
    return stacked(path, clouds, STORED_POINTS)


def _expected(stem: str) -> str:
    return (
        f"Expected are {stem}_shape_names.txt, {stem}_train.txt, {stem}_test.txt and, for either list, "
        f"{stem}_*_{STORED_POINTS}pts_fps.dat or <class>/<name>.txt. Text files: "
        "https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip; .dat: the data page of Point-BERT, "
        "https://github.com/Julie-tang00/Point-BERT/blob/master/DATASET.md. Set data.root to their folder"
        + (f", or to {FOLDER} with its lists train_files.txt and test_files.txt." if stem == "modelnet40" else ".")
    )
