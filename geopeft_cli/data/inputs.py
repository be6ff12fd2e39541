"""Clouds and scenes without labels that a user points at: which files these are, and what each is called."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from geopeft_cli.data.formats.fields import SUFFIXES
from geopeft_cli.errors import UsageError

logger = logging.getLogger("geopeft")


@dataclass(frozen=True)
class Input:
    """A file, and its path below the deepest folder that all inputs are in."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name.removesuffix(self.path.suffix)

    @property
    def folder(self) -> str:
        """The name of the folder that the file is in."""
        return self.path.absolute().parent.name


def find_inputs(paths: Sequence[Path], suffixes: Collection[str], noun: str = "cloud") -> list[Input]:
    """The files among ``paths``, and of the folders there every file with one of ``suffixes``, at any depth, by name.

    Raises:
        UsageError: a path leads nowhere, or there is no file.
    """
    files: dict[Path, None] = {}
    others: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            for file in _below(path):
                if file.suffix.lower() in suffixes:
                    files[file.absolute()] = None
                else:
                    others[file.suffix.lower() or "without suffix"] += 1
        elif path.is_file():
            files[path.absolute()] = None
        else:
            raise UsageError(f"--input {path}: no such file or folder")
    if not files:
        folders = ", ".join(map(str, paths))
        raise UsageError(f"--input {folders}: holds no {noun}s", f"Readable are {', '.join(suffixes)}.")
    if others:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        logger.warning("left out files that are no %ss: %s", noun, found)
    root = os.path.commonpath([path.absolute() if path.is_dir() else path.absolute().parent for path in paths])
    return [Input(file, file.relative_to(root).as_posix()) for file in files]


def require_distinct_stems(inputs: Sequence[Input]) -> None:
    """Refuse inputs that differ only in their suffix, whose results would have one name.

    Raises:
        UsageError: there are such.
    """
    seen: dict[str, Input] = {}
    for one in inputs:
        other = seen.setdefault(one.stem, one)
        if other is not one:
            raise UsageError(
                f"--input: {other.name} and {one.name} differ only in their suffix, and so would their results",
                "Predict them one after the other, into different folders.",
            )


def result_stems(names: Sequence[str]) -> list[str]:
    """Of scenes by name, the paths of their results without suffixes, inside a folder whatever the names hold.

    Raises:
        UsageError: two would be the same.
    """
    stems: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        path = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
        stem = "/".join(part for part in path.parts if part not in ("/", ".."))
        other = stems.setdefault(stem, name)
        if other != name:
            raise UsageError(f"--predictions: the results of scenes {other} and {name} would have one name")
    return list(stems)


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path)
        else:
            yield path
