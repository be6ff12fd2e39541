"""Small helpers that several subjects share."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from parity.fill import Array
from parity.golden_set import GoldenSet


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Arrays as tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def tensors_of_case(weights: Mapping[str, Array], case: str) -> dict[str, Tensor]:
    """The tensors of one case, whatever stands before it: ``set.case.base.weight`` -> ``base.weight``."""
    parts = {name: f".{name}".partition(f".{case}.") for name in weights}
    return as_tensors({parts[name][2]: array for name, array in weights.items() if parts[name][1]})


def named(golden: GoldenSet, file: str, stem: str) -> list[int]:
    """The numbers n of the recorded tensors ``stem`` + n."""
    found = (re.fullmatch(rf"{re.escape(stem)}(\d+)", name) for name in golden.stored[file])
    return [int(match[1]) for match in found if match]
