"""Splits drawn at random within every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import CloudSet, Subset
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.errors import DataError, UsageError

Indices = npt.NDArray[np.int64]


def stratified(
    labels: npt.NDArray[np.int64], classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, Indices]:
    """Divide clouds into ``train`` and the parts in ``fractions``, class by class.

    Of n clouds of a class a part gets its fraction, rounded, and at least one; training at least one too. The draw of
    a class depends on the seed, its name and its number of clouds alone.

    Args:
        labels: int64 (M,), indices into ``classes``.
        classes: names of the labels.
        fractions: share of every part but ``train``, each between 0 and 1; a share of 0 gives an empty part.
        seed: of the draw.

    Returns:
        Ascending indices into ``labels`` for every part, together all of them.

    Raises:
        UsageError: the fractions leave nothing for training.
        DataError: a class has fewer clouds than there are parts.
    """
    wanted = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    if sum(wanted.values()) >= 1:
        told = ", ".join(f"{part} {fraction}" for part, fraction in wanted.items())
        raise UsageError(f"data.split: {told} leave nothing for training", "Make their sum smaller than 1.")
    chosen: dict[str, list[Indices]] = {part: [] for part in ("train", *fractions)}
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if 0 < len(members) <= len(wanted):
            raise DataError(
                f"class {name!r} has {len(members)} clouds, too few for {len(wanted) + 1} parts",
                f"Every class needs one cloud each for {', '.join(('train', *wanted))}: add clouds, or remove it.",
            )
        members = members[keyed_generator(seed, "split", name).permutation(len(members))]
        left = len(wanted)
        for part, fraction in wanted.items():
            left -= 1
            # leave one for each of the parts to come and one for training
            count = min(max(1, round(fraction * len(labels[labels == label]))), len(members) - left - 1)
            chosen[part].append(members[:count])
            members = members[count:]
        chosen["train"].append(members)
    return {part: np.sort(np.concatenate(indices)) if indices else _none() for part, indices in chosen.items()}


def hold_out(clouds: CloudSet, share: float, seed: int) -> tuple[CloudSet, CloudSet | None]:
    """Take a validation part from a published training split, class by class.

    Args:
        clouds: the training split.
        share: of every class; 0 for no validation part.
        seed: of the draw.

    Returns:
        What is left to train on, and the validation part or None.
    """
    if not share:
        return clouds, None
    drawn = stratified(clouds.labels(), clouds.classes, {"validation": share}, seed)
    return Subset(clouds, drawn["train"]), Subset(clouds, drawn["validation"])


def split_way(split: Mapping[str, Any], known: Sequence[str], format_name: str) -> str:
    """How to split, one of ``known``.

    Raises:
        UsageError: this format of data cannot be split so.
    """
    way = str(split.get("by"))
    if way not in known:
        raise UsageError(f"data.split.by: {way} does not go with `format: {format_name}`", f"Use {' or '.join(known)}.")
    return way


def fractions(split: Mapping[str, Any]) -> dict[str, float]:
    """The shares of validation and test in a split by fraction.

    Raises:
        UsageError: nothing is left for testing.
    """
    test = float(split.get("test", 0.2))
    if test <= 0:
        raise UsageError(f"data.split.test: {test} leaves no test clouds", "Make it larger than 0.")
    return {"validation": float(split.get("validation", 0.0)), "test": test}


def require_trained(classes: Sequence[str], train: Indices, part: str, labels: Indices) -> None:
    """Refuse a part with classes that training never sees.

    Args:
        classes: names of the labels.
        train: labels of the training clouds.
        part: name of the other part, for the message.
        labels: labels of its clouds.

    Raises:
        DataError: names the classes.
    """
    unseen = sorted(set(labels.tolist()) - set(train.tolist()))
    if unseen:
        raise DataError(
            f"classes in {part} without a cloud to train on: {', '.join(classes[label] for label in unseen)}",
            "Add training clouds of them, or take them out.",
        )


def _none() -> Indices:
    return np.empty(0, dtype=np.int64)
