"""Small helpers that several subjects share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from geopeft_cli.contracts import Backbone, official_state
from parity.fill import Array, fill
from parity.golden_set import GoldenSet, Route


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Arrays as tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@torch.no_grad()
def complete(model: Backbone, fresh: Sequence[str], route: Route) -> None:
    """Fill what no pre-training file holds, head and ``fresh`` parameters, and check that all is that of the route."""
    state = official_state(model)
    for name, tensor in state.items():
        if name in fresh or name.startswith(model.layout.head):
            tensor.copy_(torch.from_numpy(fill(name, tensor.shape)))
    assert state.keys() == route.weights.keys(), f"not in both: {sorted(state.keys() ^ route.weights.keys())}"
    for name, array in route.weights.items():
        assert torch.equal(state[name], torch.from_numpy(array)), f"the loader puts something else in {name}"


def tensors_of_case(weights: Mapping[str, Array], case: str) -> dict[str, Tensor]:
    """The tensors of one case, whatever stands before it: ``set.case.base.weight`` -> ``base.weight``."""
    parts = {name: f".{name}".partition(f".{case}.") for name in weights}
    return as_tensors({parts[name][2]: array for name, array in weights.items() if parts[name][1]})


def named(golden: GoldenSet, file: str, stem: str) -> list[int]:
    """The numbers n of the recorded tensors ``stem`` + n."""
    found = (re.fullmatch(rf"{re.escape(stem)}(\d+)", name) for name in golden.stored[file])
    return [int(match[1]) for match in found if match]
