"""ShapeNetPart (Yi et al., 2016): shapes of 16 categories, whose points are labelled with 50 parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geopeft_cli.data.checks import OBTAIN_AGAIN, checked_point_labels, tell_of_count
from geopeft_cli.data.clouds import Cloud, Labels, Splits
from geopeft_cli.data.formats import text
from geopeft_cli.data.splitting import require_trained
from geopeft_cli.errors import DataError, MissingDataError


class Category(NamedTuple):
    """The folder of a category, and how many parts it has."""

    synset: str
    parts: int


CATEGORIES = {
    "Airplane": Category("02691156", 4),
    "Bag": Category("02773838", 2),
    "Cap": Category("02954340", 2),
    "Car": Category("02958343", 4),
    "Chair": Category("03001627", 4),
    "Earphone": Category("03261776", 3),
    "Guitar": Category("03467517", 3),
    "Knife": Category("03624134", 2),
    "Lamp": Category("03636649", 4),
    "Laptop": Category("03642806", 2),
    "Motorbike": Category("03790512", 6),
    "Mug": Category("03797390", 2),
    "Pistol": Category("03948459", 3),
    "Rocket": Category("04099429", 3),
    "Skateboard": Category("04225987", 3),
    "Table": Category("04379243", 3),
}
"""In the order of the labels of parts, which count through: Airplane has 0 to 3, Bag 4 and 5, Table 47 to 49."""

_ENDS = np.cumsum([category.parts for category in CATEGORIES.values()]).tolist()
PARTS = {
    name: tuple(range(end - category.parts, end))
    for (name, category), end in zip(CATEGORIES.items(), _ENDS, strict=True)
}
PART_NAMES = tuple(f"{name} {number}" for name, own in PARTS.items() for number in range(len(own)))
"""The set numbers its parts and does not name them."""

CATEGORY_LIST = "synsetoffset2category.txt"
SHAPE_LISTS = {part: f"train_test_split/shuffled_{part}_file_list.json" for part in ("train", "val", "test")}
PUBLISHED = {"train": 12137, "val": 1870, "test": 2874}
"""Shapes in each list."""

COLUMNS = 7
"""x, y, z, the normal, and the label of the part."""


def shapenetpart_splits(root: str | Path, validation: bool) -> Splits:
    """The published split of ``shapenetcore_partanno_segmentation_benchmark_v0_normal``, all points of each shape.

    Args:
        root: the folder of the set.
        validation: False trains on the published training and validation lists together, as the literature does;
            True keeps the validation list for validation.

    Raises:
        MissingDataError: there is no such folder, or a list or listed shapes are missing.
        DataError: a list is damaged or disagrees with the files; and in reading a shape, a damaged file.
    """
    root = Path(root)
    _require(root)
    categories = _categories(root / CATEGORY_LIST)
    listed = {part: _ids(root / name) for part, name in SHAPE_LISTS.items()}
    _refuse_overlap(root, listed)
    found = _found(root, categories)
    _require_shapes(root, listed, found)
    for part, ids in listed.items():
        tell_of_count(root / SHAPE_LISTS[part], len(ids), PUBLISHED[part])
    names = tuple(categories)

    def clouds(ids: set[str]) -> ShapeNetPart:
        return ShapeNetPart(root, [path for path in found if path.stem in ids], names)

    train = clouds(listed["train"] if validation else listed["train"] | listed["val"])
    held = clouds(listed["val"]) if validation else None
    test = clouds(listed["test"])
    for part, other in (("validation", held), ("test", test)):
        if other is not None:
            require_trained(names, train.labels(), part, other.labels())
    return Splits(train, held, test)


class ShapeNetPart:
    """Shapes, category by category in the order of the category list, by name within each; read when asked for.

    Args:
        root: the folder of the set.
        files: of the shapes.
        classes: names of the categories, in the order of their labels.
    """

    part_names = PART_NAMES
    parts = PARTS

    def __init__(self, root: Path, files: Sequence[Path], classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._root = root
        self._files = files
        label = {CATEGORIES[name].synset: index for index, name in enumerate(self.classes)}
        self._labels: Labels = np.array([label[path.parent.name] for path in files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Cloud:
        """All points of a shape in the file's order and units, float32, normals left out.

        Raises:
            DataError: a missing or damaged file, or a label that is none of the category's; names file and line.
        """
        path, label = self._files[index], int(self._labels[index])
        try:
            rows = text.read_table(path, COLUMNS)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}", OBTAIN_AGAIN) from error
        if not np.isfinite(rows).all():
            raise DataError(f"{path}: has a number that is NaN or infinite", OBTAIN_AGAIN)
        category = self.classes[label]
        point_labels = checked_point_labels(str(path), rows[:, -1], len(rows), PARTS[category], category)
        name = path.relative_to(self._root).as_posix()
        return Cloud(rows[:, :3].astype(np.float32), label, name, point_labels.astype(np.int8))

    def labels(self) -> Labels:
        return self._labels


def _require(root: Path) -> None:
    """Name everything of the set's frame that is missing, at once."""
    expected = (
        f"Expected are {CATEGORY_LIST}, {SHAPE_LISTS['train']} with _val_ and _test_ beside it, and "
        "<synset>/<id>.txt. The archive shapenetcore_partanno_segmentation_benchmark_v0_normal.zip is at "
        "https://shapenet.cs.stanford.edu/media/, under ShapeNet's terms (non-commercial research); "
        "then set data.root to the extracted folder."
    )
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder", expected)
    names = (CATEGORY_LIST, *SHAPE_LISTS.values())
    missing = [name for name in names if not (root / name).is_file()]
    missing += [category.synset for category in CATEGORIES.values() if not (root / category.synset).is_dir()]
    if missing:
        raise MissingDataError(f"{root}: has no {', '.join(missing)}", expected)


def _categories(path: Path) -> list[str]:
    """The categories in the order of the file, which is that of their labels."""
    names = []
    for number, line in text.read_lines(path):
        name, *rest = line.split()
        if name not in CATEGORIES or rest != [CATEGORIES[name].synset]:
            raise DataError(f"{path}:{number}: {line!r} is none of the 16 categories with its folder", OBTAIN_AGAIN)
        names.append(name)
    if sorted(names) != sorted(CATEGORIES):
        told = ", ".join(sorted(set(CATEGORIES) - set(names))) or "one of them twice"
        raise DataError(f"{path}: does not list the 16 categories once each: {told}", OBTAIN_AGAIN)
    return names


def _ids(path: Path) -> set[str]:
    """The names of the shapes in a list of ``shape_data/<synset>/<id>``."""
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", OBTAIN_AGAIN) from error
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        raise DataError(f"{path}: is not a list of texts such as shape_data/02691156/<id>", OBTAIN_AGAIN)
    return {line.rpartition("/")[2] for line in lines}


def _refuse_overlap(root: Path, listed: dict[str, set[str]]) -> None:
    counts = Counter(name for ids in listed.values() for name in ids)
    twice = [name for name, times in counts.items() if times > 1]
    if twice:
        where = ", ".join(SHAPE_LISTS[part] for part, ids in listed.items() if min(twice) in ids)
        raise DataError(f"{root}: {min(twice)} is in {where}", OBTAIN_AGAIN)


def _found(root: Path, categories: Sequence[str]) -> list[Path]:
    return [path for name in categories for path in sorted((root / CATEGORIES[name].synset).glob("*.txt"))]


def _require_shapes(root: Path, listed: dict[str, set[str]], found: Sequence[Path]) -> None:
    ids = set().union(*listed.values())
    missing = sorted(ids - {path.stem for path in found})
    if missing:
        raise MissingDataError(
            f"{root}: {len(missing)} of {len(ids)} listed shapes have no <synset>/<id>.txt, the first is {missing[0]}",
            "Extract the archive again.",
        )
