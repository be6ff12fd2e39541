"""What runs our code for each golden set. A new set is a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from parity.golden_set import GoldenSet


class Output(NamedTuple):
    """A value for a recorded output. One output may come several times, by ways that must all agree with it.

    ``value`` is an array or tensor, or for whole files their json content; ``name`` is then empty.
    """

    file: str
    name: str
    value: Any


Runner = Callable[[GoldenSet], Iterator[Output]]

RUNNERS = {
    "k_rectify": "parity.subjects.k_rectify:run",
    "mamba3d_modelnet40": "parity.subjects.mamba3d:run",
    "mamba3d_scanobjectnn": "parity.subjects.mamba3d:run",
    "monarch_linear": "parity.subjects.monarch:run",
    "most_paper": "parity.subjects.most:run",
    "ops_fps_knn": "parity.subjects.grouping:run",
    "peft_interop": "parity.subjects.peft_adapter:run",
    "pointmae_modelnet": "parity.subjects.point_mae:run",
    "pointmae_scan": "parity.subjects.point_mae:run",
}


def runner(name: str) -> Runner:
    """The function behind a set's name, imported now."""
    module, _, attribute = RUNNERS[name].partition(":")
    found: Runner = getattr(import_module(module), attribute)
    return found
