"""Reading a golden set: inputs, weights and recorded outputs, as its ``meta.json`` describes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from parity.fill import Array, cloud, fill

EMPTY: Mapping[str, Array] = {}


class NotAGoldenSetError(Exception):
    """The directory has no ``meta.json`` of the schema that is read here."""


@dataclass(frozen=True)
class Recorded:
    """An output of a set: a tensor, or a whole file where ``name`` is empty.

    ``rule`` is its entry in ``meta.json``, ``None`` where no entry describes it.
    """

    file: str
    name: str
    rule: dict[str, Any] | None

    @property
    def label(self) -> str:
        return f"{self.file}:{self.name}" if self.name else self.file


@dataclass(frozen=True)
class Route:
    """One filling of one model of a set.

    Attributes:
        files: the output files that belong to it.
        config: the configuration of the model.
        weights: state of the model, by module name.
    """

    name: str
    files: tuple[str, ...]
    config: dict[str, Any]
    weights: dict[str, Array]


class GoldenSet:
    """A directory with ``meta.json`` and the files that it names.

    Raises:
        NotAGoldenSetError: the directory is something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            known = self.meta["schema"] == 1
            self.name, self.rules = str(self.meta["set"]), dict(self.meta["outputs"])
        except FileNotFoundError:
            raise NotAGoldenSetError(f"{folder} is not a golden set: it has no meta.json") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotAGoldenSetError(f"{folder} is not a golden set: its meta.json cannot be read ({error})") from None
        if not known:
            raise NotAGoldenSetError(f"{folder} has schema {self.meta['schema']!r}, only 1 is known")

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.meta["config"])

    def cases(self) -> dict[str, dict[str, Any]]:
        """``config.cases`` by name, however it is written down."""
        cases = self.config["cases"]
        return dict(cases) if isinstance(cases, dict) else {case["case"]: case for case in cases}

    def json(self, location: str) -> Any:
        """A json file of the set; ``file.json#key`` is one entry of it."""
        file, _, key = location.partition("#")
        content = json.loads((self.folder / file).read_text(encoding="utf-8"))
        return content[key] if key else content

    def content(self, file: str) -> Any:
        """A recorded file as json values."""
        return tensor_file_content(self.folder / file) if file.endswith(".safetensors") else self.json(file)

    @cached_property
    def stored(self) -> dict[str, dict[str, Array]]:
        """All tensors of the set's ``io*.safetensors``, by file."""
        content = {}
        for path in sorted(self.folder.glob("io*.safetensors")):
            with safe_open(path, framework="numpy") as file:
                content[path.name] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return content

    def input(self, name: str) -> Array:
        """An input: made by name or taken from the file, then modified in the order that the format lays down."""
        source = self.meta["inputs"][name]
        if "cloud" in source:
            x: Array = cloud(*source["cloud"])
        elif "fill" in source:
            x = fill(*source["fill"])
        else:
            x = self.stored["io.safetensors"][source["tensor"]]
        if "columns" in source:
            x = x[..., slice(*source["columns"])]
        if "scale" in source:
            x = x * np.float32(source["scale"])
        if "reshape" in source:
            x = x.reshape(source["reshape"])
        if source.get("unit_columns"):
            x = x / np.linalg.norm(x, axis=0, keepdims=True)
        return x

    def routes(self, override: str | None = None, plain: Mapping[str, Array] = EMPTY) -> Iterator[Route]:
        """The fillings of the set, with the changes of an override if one is named.

        ``plain`` is the filling without changes, where it is at hand: it takes seconds for large models.
        """
        for route in self.meta["weights"]["routes"]:
            config = self.meta[route.get("config", "config")]
            weights = self._weights(route, override, plain)
            yield Route(route.get("name", route["model"]), tuple(route["files"]), config, weights)

    def _weights(self, route: dict[str, Any], override: str | None, plain: Mapping[str, Array]) -> dict[str, Array]:
        shapes: dict[str, list[int]] = {}
        for location in route["shapes"]:
            shapes |= self.json(location)
        shapes |= route.get("extra", {})
        names = {} if route["fill_name"] == "same" else self.json(route["fill_name"])
        changes = self.meta["weights"]["overrides"][override] if override else []
        prefix = route.get("strip_prefix", "")
        weights = {}
        for key, shape in shapes.items():
            name = key.removeprefix(prefix)
            x = plain[name] if name in plain else fill(names.get(key, key), shape)
            weights[name] = _changed(key, x, changes)
        return weights

    def recorded(self) -> list[Recorded]:
        """Every output of the set: tensors, and files that have a rule of their own.

        Tensors without a rule are inputs, or outputs that nobody described.
        """
        inputs = {source.get("tensor") for source in self.meta["inputs"].values()}
        tensors = (
            Recorded(file, name, self.rule(name))
            for file, content in self.stored.items()
            for name in content
            if name not in inputs or self.rule(name)
        )
        return [*tensors, *(Recorded(name, "", rule) for name, rule in self.rules.items() if "file" in rule)]

    def idle_rules(self) -> list[str]:
        """Rules that describe nothing in the set's files: outputs that were lost."""
        names = {name for content in self.stored.values() for name in content}
        used = {next((p for p in self.rules if fnmatchcase(name, p)), None) for name in names}
        return [pattern for pattern, rule in self.rules.items() if "file" not in rule and pattern not in used]

    def rule(self, name: str) -> dict[str, Any] | None:
        return next((rule for pattern, rule in self.rules.items() if fnmatchcase(name, pattern)), None)


def tensor_file_content(path: Path) -> dict[str, Any]:
    """A safetensors file as json values: its metadata, and its tensors as nested lists by name."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118 - no mapping
        return {"metadata": file.metadata(), "tensors": tensors}


def _changed(key: str, x: Array, changes: list[dict[str, Any]]) -> Array:
    change = next((change for change in changes if fnmatchcase(key, change["match"])), {})
    if "set" in change:
        return np.full_like(x, change["set"])
    if "add" in change:
        return x + np.float32(change["add"])
    if "scale" in change:
        return x * np.float32(change["scale"])
    return x
