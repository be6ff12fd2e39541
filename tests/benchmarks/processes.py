"""Timing steps against each other, each in a process of its own, turn by turn.

A process of its own gives a peak memory of its own; taking turns lets a machine that slows down slow all of them.
Memory is the growth of the resident peak over what was there after a warm-up that imports and compiles.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Step = Callable[[], object]
KILOBYTE = 1024


@dataclass(frozen=True)
class Measured:
    """One process: seconds of every round, growth of its peak memory in bytes, and what it said of itself."""

    seconds: list[float]
    memory: int
    fact: Any

    def ratio(self, other: Measured) -> float:
        """Median over the rounds of the time against another process's in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def compare(
    names: Sequence[str],
    prepare: Callable[[str], tuple[Step, Any]],
    warm_up: Callable[[], None],
    *,
    rounds: int,
    threads: int,
) -> dict[str, Measured]:
    """Run the steps of all names in turn.

    Args:
        names: what to compare.
        prepare: gives the step of a name and a fact about it; called in its process, so at the top of a module.
        warm_up: imports and compiles what all of them use.
        rounds: how often; two more come first and do not count.
        threads: of each process.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=_work, args=(name, prepare, warm_up, threads, theirs), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds + 2):
        for name, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if round_ >= 2:
                seconds[name].append(taken)
    measured = {}
    for name, pipe in pipes.items():
        pipe.send(False)
        measured[name] = Measured(seconds[name], *pipe.recv())
    return measured


def _work(
    name: str,
    prepare: Callable[[str], tuple[Step, Any]],
    warm_up: Callable[[], None],
    threads: int,
    pipe: Connection,
) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warm_up()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step, fact = prepare(name)
    while pipe.recv():
        started = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - started)
    pipe.send(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KILOBYTE, fact))
