"""The comparison rules, each at the edge of what it lets pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from parity.comparison import Result, compare

CLOSE = {"compare": "close", "atol": 0.25, "rtol": 0.5}
REFERENCE = np.array([3.0, -4.0], np.float32)  # rms sqrt(12.5)
EDGE = 0.25 + 0.5 * math.sqrt(12.5)


@pytest.mark.parametrize(
    ("distance", "ok"), [(0.0, True), (EDGE - 1e-6, True), (EDGE + 1e-6, False), (math.nan, False)]
)
def test_close_allows_atol_plus_rtol_times_the_root_mean_square(distance: float, ok: bool) -> None:
    result = compare("y", CLOSE, REFERENCE + np.array([0.0, distance]), REFERENCE)
    assert result.tolerance == pytest.approx(EDGE)
    assert result.ok is ok


@pytest.mark.parametrize(
    ("rule", "got", "reference", "error", "ok"),
    [
        ({"compare": "exact"}, [1, 2, 3], [1, 2, 3], 0, True),
        ({"compare": "exact"}, [1, 3, 2], [1, 2, 3], 2, False),
        ({"compare": "set"}, [[3, 1], [2, 4]], [[1, 3], [4, 2]], 0, True),
        ({"compare": "set"}, [[3, 1], [2, 4]], [[1, 4], [3, 2]], 2, False),
        ({"compare": "set"}, [[1, 1], [2, 4]], [[1, 2], [2, 4]], 1, False),
        ({"compare": "set", "group": 2}, [3, 1, 2, 4], [1, 3, 4, 2], 0, True),
        ({"compare": "set", "group": 2}, [3, 1, 2, 4], [1, 2, 3, 4], 2, False),
        ({"compare": "mostly"}, [1] + [0] * 999, [0] * 1000, 1, True),
        ({"compare": "mostly"}, [1] + [0] * 998, [0] * 999, 1, False),
    ],
)
def test_counted_rules(rule: dict[str, Any], got: list[int], reference: list[int], error: int, ok: bool) -> None:
    result = compare("index", rule, np.array(got), np.array(reference))
    assert (result.error, result.ok) == (error, ok)


@pytest.mark.parametrize("rule", [CLOSE, {"compare": "exact"}, {"compare": "set"}])
def test_another_shape_fails_even_where_it_would_broadcast(rule: dict[str, Any]) -> None:
    result = compare("y", rule, np.zeros((1, 2)), np.zeros((3, 2)))
    assert not result.ok
    assert "(1, 2) instead of (3, 2)" in result.note


@pytest.mark.parametrize(
    ("rule", "got", "ok"),
    [
        (CLOSE, {"norms": {"a": 5.2, "b": None}, "names": ["x"]}, True),
        (CLOSE, {"norms": {"a": 6.3, "b": None}, "names": ["x"]}, False),
        (CLOSE, {"norms": {"a": 4.0, "b": 0.0}, "names": ["x"]}, True),
        (CLOSE, {"norms": {"a": 4.0, "b": 0.1}, "names": ["x"]}, False),
        (CLOSE, {"norms": {"a": 4.0}, "names": ["x"]}, False),
        (CLOSE, {"norms": {"a": 4.0, "b": None, "c": 1.0}, "names": ["x"]}, False),
        (CLOSE, {"norms": {"a": math.nan, "b": None}, "names": ["x"]}, False),
        (CLOSE, {"norms": {"a": 4.0, "b": None}, "names": ["y"]}, False),
        (CLOSE, {"norms": {"a": 4.0, "b": None}, "names": []}, False),
        ({"compare": "exact"}, {"norms": {"a": 4.0, "b": None}, "names": ["x"]}, True),
        ({"compare": "exact"}, {"norms": {"a": 4.1, "b": None}, "names": ["x"]}, False),
    ],
)
def test_json(rule: dict[str, Any], got: Any, ok: bool) -> None:
    assert compare("file.json", rule, got, {"norms": {"a": 4.0, "b": None}, "names": ["x"]}).ok is ok


def test_failures_outweigh_every_pass() -> None:
    results = [Result("a", 0.9, 1), Result("b", 2, 1), Result("c", 0, 0), Result("d", math.nan, 1), Result("e", 5, 1)]
    assert [result.label for result in sorted(results, key=lambda result: result.severity)] == ["c", "a", "b", "e", "d"]
