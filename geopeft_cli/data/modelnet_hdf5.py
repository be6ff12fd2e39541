"""ModelNet40 as ``modelnet40_ply_hdf5_2048`` (PointNet): 2048 points a cloud in a few HDF5 files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from geopeft_cli.data.checks import OBTAIN_AGAIN, checked_clouds, lines_of_list, tell_of_count
from geopeft_cli.data.clouds import MemoryClouds, Splits
from geopeft_cli.data.hdf5 import data_and_label
from geopeft_cli.data.splitting import hold_out, require_trained
from geopeft_cli.errors import DataError, MissingDataError

FOLDER = "modelnet40_ply_hdf5_2048"
LISTS = {"train": "train_files.txt", "test": "test_files.txt"}
NAMES = "shape_names.txt"
CLASSES = 40

PUBLISHED = {"train": 9840, "test": 2468}
"""Clouds of each part; three training clouds of the other layout are not in this one."""

EXPECTED = (
    f"Expected are {NAMES}, {LISTS['train']}, {LISTS['test']} and the .h5 files that the lists name, as in "
    f"https://shapenet.cs.stanford.edu/media/{FOLDER}.zip. Set data.root to their folder."
)


def is_hdf5_layout(root: Path) -> bool:
    """Whether a folder has a list of this layout."""
    return any((root / name).is_file() for name in LISTS.values())


def modelnet_hdf5_splits(root: Path, validation: float, seed: int) -> Splits:
    """The published training and test split, 2048 points a cloud, coordinates as in the files.

    The lists name their files with the folder in which PointNet kept them; only the last part of each path counts.

    Args:
        root: the folder ``modelnet40_ply_hdf5_2048``.
        validation: share of every class of the training split; 0 for none.
        seed: of the draw of the validation split.

    Raises:
        MissingDataError: a list or a listed file is not there.
        DataError: a file is damaged, is in both lists, or is not ``data`` (M, n, 3) with ``label`` (M, 1) in 0..39.
    """
    names = lines_of_list(root / NAMES, EXPECTED)
    if len(names) != CLASSES:
        raise DataError(f"{root / NAMES}: {len(names)} classes, not {CLASSES}", OBTAIN_AGAIN)
    files = {part: _listed(root, name) for part, name in LISTS.items()}
    both = {path.name for path in files["train"]} & {path.name for path in files["test"]}
    if both:
        raise DataError(f"{root}: {min(both)} is in {LISTS['train']} and in {LISTS['test']}", OBTAIN_AGAIN)
    train, test = (_part(root, part, files[part], names) for part in ("train", "test"))
    require_trained(names, train.labels(), "test", test.labels())
    return Splits(*hold_out(train, validation, seed), test)


def _listed(root: Path, name: str) -> list[Path]:
    files = [root / Path(line).name for line in lines_of_list(root / name, EXPECTED)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise MissingDataError(f"{root}: has no {missing[0]}, which {name} lists", EXPECTED)
    return files


def _part(root: Path, part: Literal["train", "test"], files: Sequence[Path], names: Sequence[str]) -> MemoryClouds:
    parts = [_read(path, names) for path in files]
    clouds = [one[index] for one in parts for index in range(len(one))]
    tell_of_count(root / LISTS[part], len(clouds), PUBLISHED[part])
    points, labels = [cloud.points for cloud in clouds], [cloud.label for cloud in clouds]
    return MemoryClouds(points, labels, names, [cloud.name for cloud in clouds])


def _read(path: Path, names: Sequence[str]) -> MemoryClouds:
    points, labels = data_and_label(path)
    return checked_clouds(path, points, labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels, names)
