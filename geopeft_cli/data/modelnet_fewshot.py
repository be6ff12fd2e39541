"""Few-shot folds of ModelNet40 as published with Point-BERT: ``5way_10shot/0.pkl`` and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geopeft_cli.data.checks import OBTAIN_AGAIN, checked_clouds, stacked, tell_of_count, whole_number
from geopeft_cli.data.clouds import Labels, Splits
from geopeft_cli.data.formats.pickles import load_pickle
from geopeft_cli.data.modelnet import CLASSES, STORED_POINTS
from geopeft_cli.data.splitting import require_trained
from geopeft_cli.errors import DataError, MissingDataError

TEST_CLOUDS = 20
"""Of every class of a fold."""

Samples = list[tuple[Any, int, Any]]
"""Cloud, label in the fold, and class in ModelNet40."""


def modelnet_fewshot_splits(root: str | Path, way: int, shot: int, fold: int) -> Splits:
    """One fold: ``way`` classes with ``shot`` training clouds each, 8192 points, coordinates as in the file.

    Args:
        root: the folder ``ModelNetFewshot``, with ``5way_10shot`` or ``5way10shot`` in it.
        way: number of classes.
        shot: training clouds of each.
        fold: 0 to 9.

    Raises:
        MissingDataError: there is no such folder or file.
        DataError: the file is damaged, or not of that form.
    """
    path = _find(Path(root), way, shot, fold)
    content = load_pickle(path)
    samples = {part: _samples(path, content, part) for part in ("train", "test")}
    classes = _classes(path, way, [*samples["train"], *samples["test"]])
    train, test = (
        checked_clouds(path, stacked(path, [cloud for cloud, _, _ in samples[part]], STORED_POINTS), labels, classes)
        for part, labels in {part: _labels(samples[part]) for part in samples}.items()
    )
    require_trained(classes, train.labels(), "the fold", np.arange(way))
    tell_of_count(path, len(train) + len(test), way * (shot + TEST_CLOUDS))
    return Splits(train, None, test)


def _find(root: Path, way: int, shot: int, fold: int) -> Path:
    places = [root / folder / f"{fold}.pkl" for folder in (f"{way}way_{shot}shot", f"{way}way{shot}shot")]
    for place in places:
        if place.is_file():
            return place
    hint = (
        f"Expected is {places[0]} or {places[1]}, as in ModelNetFewshot, to which the data page of Point-BERT leads "
        "(https://github.com/Julie-tang00/Point-BERT/blob/master/DATASET.md). Set data.root to that folder."
    )
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder", hint)
    raise MissingDataError(f"{root}: has no fold {fold} of {way} way, {shot} shot", hint)


def _samples(path: Path, content: Any, part: str) -> Samples:
    entries = content.get(part) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: has no list of clouds {part!r}", OBTAIN_AGAIN)
    samples: Samples = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, tuple | list) or len(entry) != 3:
            raise DataError(f"{path}: {part} cloud {index} is not (points, label, class)", OBTAIN_AGAIN)
        label = whole_number(entry[1])
        if label is None:
            raise DataError(f"{path}: {part} cloud {index} has the label {entry[1]!r}, not a number", OBTAIN_AGAIN)
        samples.append((entry[0], label, entry[2]))
    return samples


def _labels(samples: Samples) -> Labels:
    return np.array([label for _, label, _ in samples], dtype=np.int64)


def _classes(path: Path, way: int, samples: Samples) -> tuple[str, ...]:
    """The names of the labels; one whose class in ModelNet40 the file does not tell is named by its number."""
    names: dict[int, str] = {}
    for _, label, original in samples:
        number = whole_number(original)
        known = number is not None and 0 <= number < len(CLASSES)
        name = CLASSES[number] if known and number is not None else str(label)
        if names.setdefault(label, name) != name:
            raise DataError(f"{path}: label {label} is both {names[label]} and {name}", OBTAIN_AGAIN)
    for name in set(names.values()):
        same = sorted(label for label in names if names[label] == name)
        if len(same) > 1:
            raise DataError(f"{path}: labels {same[0]} and {same[1]} are both {name}", OBTAIN_AGAIN)
    return tuple(names.get(label, str(label)) for label in range(way))
