"""Clouds and meshes in class folders, or named by list files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geopeft_cli.data.checks import checked_point_labels
from geopeft_cli.data.clouds import IGNORED, Cloud, Labels, Splits, Subset, every_part
from geopeft_cli.data.formats import READERS, read_points
from geopeft_cli.data.formats.labelled import read_labelled
from geopeft_cli.data.keys import derived_seed
from geopeft_cli.data.splitting import fractions, require_trained, split_way, stratified
from geopeft_cli.errors import DataError, MissingDataError, UsageError

logger = logging.getLogger("geopeft")

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Entry:
    """A file of the data set: its path, its name below the root, and the name of its class."""

    path: Path
    name: str
    label: str


def folder_splits(
    root: str | Path,
    split: Mapping[str, Any],
    points_for_meshes: int,
    seed: int,
    on_error: Literal["stop", "skip"] = "stop",
    part_names: Sequence[str] = (),
) -> Splits:
    """The parts of a folder of clouds.

    Classes are sorted by name and the same in every part. Files are read when asked for; an unreadable one stops the
    run with its name. With ``on_error="skip"`` all are read once beforehand, and unreadable ones are left out of the
    split and named in the log.

    Args:
        root: the folder.
        split: ``{"by": "fraction", "validation": 0.0, "test": 0.2}`` of ``root/<class>/<file>``;
            ``{"by": "folder", "train": "train", "validation": None, "test": "test"}`` for ``root/train/<class>/<file>``
            or ``root/<class>/train/<file>``; or ``{"by": "list", "train": ..., "validation": None, "test": ...}`` with
            list files below ``root``, a path a line, followed by its class or in a folder named so.
        points_for_meshes: how many points to draw on a mesh.
        seed: of the split and of the points on meshes.
        on_error: ``stop`` or ``skip``.
        part_names: the names of the labels of points, which every file then has to hold; empty for none.

    Raises:
        UsageError: the split does not go with folders, or names a part that does not exist.
        DataError: no folder, no class, a class without files, a file in two parts, a class that is never trained on,
            or a line of a list whose file is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder", "Set data.root to the folder that holds the data set.")
    way = split_way(split, ("fraction", "folder", "list"), "folder")
    find = {"fraction": _in_class_folders, "folder": _in_part_folders, "list": _in_lists}[way]
    parts = find(root, split)
    _refuse_overlap(parts)
    classes = tuple(sorted({entry.label for entries in parts.values() for entry in entries}))

    def clouds(entries: Sequence[Entry]) -> FolderClouds:
        return FolderClouds(entries, classes, points_for_meshes, seed, part_names)

    if on_error == "skip":
        parts = _readable(parts, classes, clouds)
    sets = {part: clouds(entries) for part, entries in parts.items()}
    if way == "fraction":
        whole = sets["train"]
        drawn = stratified(whole.labels(), classes, fractions(split), seed)
        validation = Subset(whole, drawn["validation"]) if len(drawn["validation"]) else None
        return Splits(Subset(whole, drawn["train"]), validation, Subset(whole, drawn["test"]))
    for part in sets:
        require_trained(classes, sets["train"].labels(), part, sets[part].labels())
    return Splits(sets["train"], sets.get("validation"), sets["test"])


class FolderClouds:
    """Files of clouds and meshes, read when asked for.

    Args:
        entries: the files.
        classes: names of the labels.
        samples: how many points to draw on a mesh.
        seed: of that draw, which differs from file to file.
        part_names: the names of the labels of points, which every file then has to hold; empty for none.
    """

    def __init__(
        self, entries: Sequence[Entry], classes: Sequence[str], samples: int, seed: int, part_names: Sequence[str] = ()
    ) -> None:
        self.classes = tuple(classes)
        self.part_names = tuple(part_names)
        self.parts = every_part(classes, part_names)
        self._entries = entries
        self._labels: Labels = np.array([self.classes.index(entry.label) for entry in entries], dtype=np.int64)
        self._samples = samples
        self._seed = seed

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Cloud:
        """The cloud in float64, in the file's own units."""
        entry = self._entries[index]
        if self.part_names:
            points, found = read_labelled(entry.path)
            allowed = (IGNORED, *range(len(self.part_names)))
            point_labels = checked_point_labels(str(entry.path), found, len(points), allowed, "data.part_names")
            return Cloud(points, int(self._labels[index]), entry.name, point_labels)
        points = read_points(entry.path, self._samples, derived_seed(self._seed, entry.name))
        return Cloud(points, int(self._labels[index]), entry.name)

    def labels(self) -> Labels:
        return self._labels


@dataclass
class _Ignored:
    """What a folder holds besides clouds."""

    hidden: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)

    def tell(self, root: Path) -> None:
        if self.hidden or self.suffixes:
            counts = {"hidden": self.hidden, **self.suffixes}
            told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            logger.warning("%s: ignored files: %s", root, told)


def _in_class_folders(root: Path, split: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """``root/<class>/<file>``; all of it is called train, to be divided later."""
    ignored = _Ignored()
    entries = [entry for folder in _folders(root) for entry in _entries(root, folder, folder.name, ignored)]
    if not entries:
        raise DataError(f"{root}: has no class folders", f"Put the files of each class in a folder. {_suffixes()}")
    ignored.tell(root)
    return {"train": entries}


def _in_part_folders(root: Path, split: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """``root/<part>/<class>/<file>`` where every part is a folder of ``root``, else ``root/<class>/<part>/<file>``."""
    ignored = _Ignored()
    names = {part: str(split[part]) for part in PARTS if split.get(part)}
    parts_first = all((root / name).is_dir() for name in names.values())
    parts: dict[str, list[Entry]] = {}
    for part, name in names.items():
        if parts_first:
            folders = [(folder, folder.name) for folder in _folders(root / name)]
        else:
            folders = [(folder / name, folder.name) for folder in _folders(root) if (folder / name).is_dir()]
        if not folders:
            raise UsageError(
                f"data.split.{part}: {root} has neither {name}/<class> nor <class>/{name}",
                f"Folders there: {', '.join(folder.name for folder in _folders(root)) or 'none'}.",
            )
        parts[part] = [entry for folder, label in folders for entry in _entries(root, folder, label, ignored)]
    if not parts_first:
        used = {entry.label for entries in parts.values() for entry in entries}
        unused = [folder.name for folder in _folders(root) if folder.name not in used]
        if unused:
            raise DataError(
                f"{root}: folders with none of {', '.join(names.values())} in them: {', '.join(unused)}",
                "Divide these classes too, or move the folders away.",
            )
    ignored.tell(root)
    return parts


def _in_lists(root: Path, split: Mapping[str, Any]) -> dict[str, list[Entry]]:
    return {part: list(_listed(root, root / str(split[part]))) for part in PARTS if split.get(part)}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _entries(root: Path, folder: Path, label: str, ignored: _Ignored) -> list[Entry]:
    """The readable files directly in the folder of a class, by name."""
    entries = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.name.startswith("."):
            ignored.hidden += 1
        elif path.suffix.lower() not in READERS:
            ignored.suffixes[path.suffix.lower() or "without suffix"] += 1
        else:
            entries.append(Entry(path, path.relative_to(root).as_posix(), label))
    if not entries:
        inner = ", ".join(path.name for path in _folders(folder))
        hint = f"It has the folders {inner}; `split: {{by: folder}}` reads <class>/<part>." if inner else _suffixes()
        raise DataError(f"class {label!r}: no clouds in {folder}", hint)
    return entries


def _listed(root: Path, path: Path) -> Iterator[Entry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "List files are paths below data.root.") from error
    lines = [line.strip() for line in lines]
    if not any(lines):
        raise DataError(f"{path}: lists no clouds", "Write one path below data.root a line.")
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            yield _listed_entry(root, line, f"{path}:{number}")


def _listed_entry(root: Path, line: str, where: str) -> Entry:
    name, label = line, ""
    if not (root / line).is_file() and len(words := line.rsplit(maxsplit=1)) == 2:
        name, label = words
    file = root / name
    if not file.is_file():
        raise DataError(f"{where}: no file {name!r} below {root}", "Correct or remove the line.")
    if file.suffix.lower() not in READERS:
        raise DataError(f"{where}: {name!r} has an unknown suffix", _suffixes())
    label = label or Path(name).parent.name
    if not label:
        raise DataError(f"{where}: {name!r} has no class", "Write it after the path, or name the file's folder so.")
    return Entry(file, Path(name).as_posix(), label)


def _refuse_overlap(parts: Mapping[str, Sequence[Entry]]) -> None:
    seen: dict[Path, str] = {}
    for part, entries in parts.items():
        for entry in entries:
            other = seen.setdefault(entry.path, part)
            if other != part:
                raise DataError(f"{entry.name} is in {other} and in {part}", "A cloud belongs to one part only.")


def _readable(
    parts: Mapping[str, list[Entry]], classes: Sequence[str], clouds: Callable[[Sequence[Entry]], FolderClouds]
) -> dict[str, list[Entry]]:
    """Read everything once and leave out what cannot be read."""
    kept: dict[str, list[Entry]] = {part: [] for part in parts}
    skipped = []
    for part, entries in parts.items():
        all_of_it = clouds(entries)
        for index, entry in enumerate(entries):
            try:
                all_of_it[index]
                kept[part].append(entry)
            except DataError as error:
                skipped.append(f"  {error.message}")
    if skipped:
        logger.warning("skipped clouds that cannot be read: %d\n%s", len(skipped), "\n".join(skipped))
    lost = sorted(set(classes) - {entry.label for entries in kept.values() for entry in entries})
    if lost:
        raise DataError(f"classes without a readable cloud: {', '.join(lost)}", "Repair them, or remove the classes.")
    empty = [part for part, entries in kept.items() if not entries]
    if empty:
        raise DataError(f"no readable cloud in {', '.join(empty)}", "Repair the files listed above.")
    return kept


def _suffixes() -> str:
    return f"Readable are {', '.join(READERS)}."
