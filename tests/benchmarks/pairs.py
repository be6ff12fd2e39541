"""Timing two functions against each other, turn by turn, so that a machine that slows down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def compare(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of every function, and the median over the rounds of its ratio to the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 2):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if round_ >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - started)
    first = next(iter(seconds.values()))
    return {
        name: (statistics.median(values), statistics.median(a / b for a, b in zip(values, first, strict=True)))
        for name, values in seconds.items()
    }
