"""Scenes of one's own: a file each, below folders of parts, in lists, or in one folder to be divided at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geopeft_cli.data.formats.fields import SUFFIXES, read_fields
from geopeft_cli.data.scene_fields import Absent, LabelNames, completed, scene_of_fields
from geopeft_cli.data.scenes import Scene, SceneSet, SceneSplits, SomeScenes, checked_scene
from geopeft_cli.data.splitting import fractions, split_way, stratified
from geopeft_cli.errors import DataError, MissingDataError, UsageError

PARTS = ("train", "validation", "test")


class SceneFiles:
    """Files of scenes, read when asked for.

    Args:
        root: names of scenes are paths below it.
        paths: the files.
        labels: how labels are found and mapped.
        absent: what stands in for colors and normals that a file lacks.
        columns: names of the columns of files without names, see ``read_fields``.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        labels: LabelNames,
        absent: Absent = Absent(),  # noqa: B008 - frozen
        columns: Sequence[str] = (),
    ) -> None:
        self.classes = labels.classes
        self.names = tuple(path.relative_to(root).as_posix() for path in paths)
        self._paths, self._labels, self._absent, self._columns = paths, labels, absent, columns

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Scene:
        """The scene, checked.

        Raises:
            DataError: the file is missing, damaged, or holds something else; the message names it.
        """
        path = self._paths[index]
        fields = read_fields(path, self._columns)
        scene = scene_of_fields(self.names[index], fields, self._labels, str(path))
        return completed(checked_scene(scene, len(self.classes), str(path)), self._absent)


def scene_file_splits(
    root: str | Path,
    split: Mapping[str, Any],
    labels: LabelNames,
    absent: Absent = Absent(),  # noqa: B008 - frozen
    columns: Sequence[str] = (),
    seed: int = 0,
) -> SceneSplits:
    """The parts of a folder of scenes.

    Args:
        root: the folder.
        split: ``{"by": "folder", "train": "train", "validation": None, "test": "test"}`` for files anywhere below
            ``root/train``; ``{"by": "list", "train": "train.txt", ...}`` for list files below ``root``, a path a line;
            or ``{"by": "fraction", "validation": 0.0, "test": 0.2}`` for whole scenes drawn at random.
        labels: how labels are found and mapped.
        absent: what stands in for colors and normals that a file lacks.
        columns: names of the columns of files without names.
        seed: of the draw.

    Raises:
        UsageError: the split does not go with scenes, or leaves nothing to train on.
        DataError: no folder, no scene in a part, or a scene in two.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder", "Set data.root to the folder that holds the scenes.")

    def scenes(paths: Sequence[Path]) -> SceneFiles:
        return SceneFiles(root, paths, labels, absent, columns)

    way = split_way(split, ("fraction", "folder", "list"), "scenes")
    if way == "fraction":
        return divided(scenes(files_below(root)), split, seed)
    find = _in_list if way == "list" else _in_folder
    found = {part: scenes(find(root, str(split[part]))) for part in PARTS if split.get(part)}
    return splits_of(found)


def splits_of(parts: Mapping[str, SceneSet]) -> SceneSplits:
    """Parts by name as splits.

    Raises:
        UsageError: training or testing is missing.
        DataError: a scene is in two parts.
    """
    for part in ("train", "test"):
        if part not in parts:
            raise UsageError(f"data.split: no {part} part", f"Set data.split.{part}.")
    seen: dict[str, str] = {}
    for part, scenes in parts.items():
        for name in scenes.names:
            if name in seen:
                raise DataError(f"scene {name} is both in {seen[name]} and in {part}", "Leave it in one of them.")
            seen[name] = part
    return SceneSplits(parts["train"], parts.get("validation"), parts["test"])


def divided(scenes: SceneSet, split: Mapping[str, Any], seed: int) -> SceneSplits:
    """Whole scenes drawn at random into the parts of ``{"by": "fraction", "validation": 0.0, "test": 0.2}``.

    Raises:
        UsageError: the fractions leave nothing for training or testing.
        DataError: there are fewer scenes than parts.
    """
    one_class = np.zeros(len(scenes), dtype=np.int64)
    drawn = stratified(one_class, ("scene",), fractions(split), seed)
    validation = SomeScenes(scenes, drawn["validation"]) if len(drawn["validation"]) else None
    return SceneSplits(SomeScenes(scenes, drawn["train"]), validation, SomeScenes(scenes, drawn["test"]))


def files_below(folder: Path, accept: Callable[[Path], bool] = lambda path: True) -> list[Path]:
    """The files of scenes below a folder, sorted by path.

    Raises:
        MissingDataError: there is none.
    """
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    paths = sorted(path for path in paths if path.is_file() and accept(path))
    if not paths:
        raise MissingDataError(f"{folder}: holds no scenes", f"Readable are {', '.join(SUFFIXES)}.")
    return paths


def _in_folder(root: Path, name: str) -> list[Path]:
    if not (root / name).is_dir():
        raise MissingDataError(f"{root / name}: no such folder", "Set data.split to the names of folders.")
    return files_below(root / name)


def _in_list(root: Path, name: str) -> list[Path]:
    if not (root / name).is_file():
        raise MissingDataError(f"{root / name}: no such list", "Set data.split to the names of list files.")
    paths = []
    for number, line in enumerate((root / name).read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            paths.append(root / line.strip())
            if not paths[-1].is_file():
                raise DataError(f"{root / name}:{number}: {paths[-1]} does not exist", "Correct the list.")
    if not paths:
        raise DataError(f"{root / name}: names no scenes", "List a path a line.")
    return paths
