"""The comparison rules of the golden format: one result for each recorded output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.fill import Array


@dataclass(frozen=True)
class Result:
    """How far an output is from the recorded one.

    Attributes:
        label: what was compared.
        error: largest absolute difference, or the number of entries that differ.
        tolerance: the largest error that passes.
        note: why there is nothing to measure, else empty; such a result fails.
    """

    label: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return not self.note and self.error <= self.tolerance  # false for NaN

    @property
    def severity(self) -> tuple[bool, float]:
        """Sorts results: failures last, and among equals by the error relative to the tolerance."""
        if self.note or math.isnan(self.error):
            return True, math.inf
        ratio = self.error / self.tolerance if self.tolerance else (math.inf if self.error else 0.0)
        return not self.ok, ratio


def failure(label: str, note: str) -> Result:
    """The result of an output that cannot be compared."""
    return Result(label, math.nan, math.nan, note)


def compare(label: str, rule: dict[str, Any], got: Any, reference: Any) -> Result:
    """Compare arrays, or json values, by the rule of their entry in ``meta.json``."""
    if isinstance(reference, np.ndarray):
        return _compare_arrays(label, rule, np.asarray(got), reference)
    return _compare_json(label, rule, dict(_leaves(got)), dict(_leaves(reference)))


def _compare_arrays(label: str, rule: dict[str, Any], got: Array, reference: Array) -> Result:
    if got.shape != reference.shape:
        return failure(label, f"shape {got.shape} instead of {reference.shape}")
    kind = rule["compare"]
    if kind == "close":
        got, reference = got.astype(np.float64), reference.astype(np.float64)
        error = np.abs(got - reference).max(initial=0.0)
        rms = math.sqrt(np.mean(np.square(reference))) if reference.size else 0.0
        return Result(label, float(error), rule["atol"] + rule["rtol"] * rms)
    if kind == "set":
        if "group" in rule:
            got, reference = got.reshape(-1, rule["group"]), reference.reshape(-1, rule["group"])
        got, reference = np.sort(got, axis=-1), np.sort(reference, axis=-1)
    elif kind not in ("exact", "mostly"):
        return failure(label, f"no rule is called {kind!r}")
    return Result(label, int((got != reference).sum()), reference.size / 1000 if kind == "mostly" else 0)


def _compare_json(label: str, rule: dict[str, Any], got: dict[str, Any], reference: dict[str, Any]) -> Result:
    """Leaf by leaf: numbers by the tolerance where there is one, all else by equality.

    A recorded null is a gradient that reaches nothing; a norm of 0 says the same.
    """
    atol, rtol = (rule["atol"], rule["rtol"]) if rule["compare"] == "close" else (0.0, 0.0)
    wrong, measured = [], [Result(label, 0, 0)]
    for path in sorted(got.keys() | reference.keys()):
        one, other = got.get(path, "nothing"), reference.get(path, "nothing")
        if isinstance(one, int | float) and isinstance(other, int | float):
            measured.append(Result(label, abs(one - other), atol + rtol * abs(other)))
        elif one != other and not (other is None and one == 0):
            wrong.append(f"{path.lstrip('.')}: {one!r:.60} instead of {other!r:.60}")
    return Result(label, len(wrong), 0, wrong[0]) if wrong else max(measured, key=lambda result: result.severity)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a json value that holds nothing further."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items or not value:
        yield path, value
    for key, part in items:
        yield from _leaves(part, f"{path}.{key}")
