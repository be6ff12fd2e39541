"""Less to learn from: few scenes, or few labelled points in each; and the weights of unequal classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.data.clouds import IGNORED
from geopeft_cli.data.scenes import Int64, Scene, SceneSet, SomeScenes
from geopeft_cli.errors import DataError, MissingDataError


def limited_scenes(scenes: SceneSet, path: str | Path) -> SomeScenes:
    """The scenes that a list names, a name a line, as the files ``scenes/1.txt`` of ScanNet's benchmark do.

    Raises:
        DataError: no such list, no name in it, or a name that the set does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file", "Set data.limited_scenes to a list of scenes.")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: names no scenes", "List a name a line.")
    at = {name: index for index, name in enumerate(scenes.names)}
    missing = [name for name in names if name not in at]
    if missing:
        raise DataError(f"{path}: {len(missing)} scenes are not in the set, the first is {missing[0]}", "Correct it.")
    return SomeScenes(scenes, [at[name] for name in dict.fromkeys(names)])


class LimitedPoints:
    """Scenes of which few points have a label: all others are ignored, and these are never left out by subsampling.

    Args:
        scenes: fully labelled.
        points: by name of every scene, the indices of the points that keep their labels.

    Raises:
        DataError: a scene is not among ``points``.
    """

    def __init__(self, scenes: SceneSet, points: Mapping[str, npt.NDArray[Any]]) -> None:
        missing = [name for name in scenes.names if name not in points]
        if missing:
            raise DataError(f"{len(missing)} scenes without labelled points, the first is {missing[0]}")
        self.classes, self.names = scenes.classes, scenes.names
        self._scenes, self._points = scenes, points

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        """The scene with few labels.

        Raises:
            DataError: an index that it does not have.
        """
        scene = self._scenes[index]
        return limited_points(scene, self._points[scene.name])


def limited_points(scene: Scene, points: npt.NDArray[Any]) -> Scene:
    """The scene with the labels of ``points`` (m,), indices of points as stored, alone.

    Raises:
        DataError: an index that the scene does not have.
    """
    points = np.asarray(points).reshape(-1)
    stored = np.arange(len(scene)) if scene.rows is None else scene.rows
    if points.dtype.kind not in "iu" or (len(points) and (points.min() < 0 or points.max() > stored.max())):
        raise DataError(
            f"scene {scene.name}: labelled points that it does not have", "The list is for other data, or damaged."
        )
    kept = np.isin(stored, points)
    return replace(scene, labels=np.where(kept, scene.labels, IGNORED), kept=kept)


def read_limited_points(path: str | Path) -> dict[str, npt.NDArray[np.int64]]:
    """A torch file with a dict from names of scenes to indices of points, as ``points/points20`` of ScanNet is.

    Nothing in the file is run: it may hold dicts, lists, numbers, tensors and arrays.

    Raises:
        DataError: no such file, or something else in it.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file", "Set data.limited_points to a file of labelled points.")
    try:
        with torch.serialization.safe_globals(_arrays_of_integers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a damaged or unsafe file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}", "Obtain it again; nothing of it was run.") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: holds no dict of scenes", "It is another file; obtain it again.")
    try:
        return {str(name): np.asarray(points).astype(np.int64, casting="same_kind") for name, points in content.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}", "It holds indices of points for every scene.") from None


def drawn_points(scene: Scene, count: int, generator: np.random.Generator) -> Int64:
    """Indices of ``count`` random points with a label, ascending, or of all where there are fewer."""
    labeled = np.flatnonzero(scene.labels != IGNORED)
    return np.sort(generator.permutation(labeled)[:count]).astype(np.int64)


def class_counts(scenes: SceneSet) -> Int64:
    """How many points of every class a set has, int64 (classes,). Reads all scenes."""
    counts = np.zeros(len(scenes.classes), dtype=np.int64)
    for index in range(len(scenes)):
        labels = scenes[index].labels
        counts += np.bincount(labels[labels != IGNORED], minlength=len(counts))
    return counts


def class_weights(
    counts: Sequence[int] | Int64, way: Literal["log", "inverse_square_root"] = "log"
) -> npt.NDArray[np.float64]:
    """Weights of a loss for unequal classes, (classes,); 0 for classes that do not occur.

    Args:
        counts: points of every class.
        way: ``log``, minus the logarithm of a class's share of the labelled points (SemanticKITTI's published weights
            are those of its share of all points); or ``inverse_square_root`` of the share, with mean 1 over the
            classes that occur.

    Raises:
        DataError: there is no labelled point.
    """
    found = np.asarray(counts, dtype=np.float64)
    if not found.sum():
        raise DataError("no point of the training scenes has a label", "Look at the labels and how they are mapped.")
    present = found > 0
    shares = found[present] / found.sum()
    weights = np.zeros(len(found))
    if way == "log":
        weights[present] = -np.log(shares)
    else:
        inverse = shares**-0.5
        weights[present] = inverse / inverse.mean()
    return weights


def _arrays_of_integers() -> list[Any]:
    """What a pickled array of integers calls to be made, under the names of numpy 1 and 2."""
    rebuild = np.zeros(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in ("i2", "i4", "i8", "u2", "u4", "u8")]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    return [np.ndarray, np.dtype, *kinds, *((rebuild, name) for name in names)]
