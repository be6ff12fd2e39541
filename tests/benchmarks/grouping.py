"""Grouping 32 clouds of 2048 points into 128 groups of 32: textbook tensor code, ours, and ours compiled.

    python tests/benchmarks/grouping.py [repetitions]

The three take turns, so that whatever else the machine does hits all of them; medians of times and of ratios.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from geopeft_cli.geometry import compiled
from geopeft_cli.geometry.grouping import group

CLOUDS, POINTS, GROUPS, SIZE = 32, 2048, 128, 32


def textbook(points: Tensor) -> Tensor:
    """The usual loop over whole coordinates, then ``cdist`` and ``topk``."""
    batch = torch.arange(len(points))
    picks = torch.zeros(len(points), GROUPS, dtype=torch.long)
    distance = torch.full(points.shape[:2], 1e10)
    farthest = torch.zeros(len(points), dtype=torch.long)
    for step in range(GROUPS):
        picks[:, step] = farthest
        center = points[batch, farthest].unsqueeze(1)
        distance = torch.minimum(distance, ((points - center) ** 2).sum(-1))
        farthest = torch.max(distance, -1)[1]
    centers = points[batch[:, None], picks]
    index = torch.cdist(centers, points).topk(SIZE, largest=False).indices
    return points[batch[:, None, None], index] - centers.unsqueeze(2)


def tensors(points: Tensor) -> Tensor:
    with compiled.disabled():
        return group(points, GROUPS, SIZE).neighborhoods


def loops(points: Tensor) -> Tensor:
    return group(points, GROUPS, SIZE).neighborhoods


def seconds(function: Callable[[Tensor], Tensor], points: Tensor) -> float:
    start = perf_counter()
    function(points)
    return perf_counter() - start


def main(repetitions: int) -> None:
    points = torch.randn(CLOUDS, POINTS, 3, generator=torch.Generator().manual_seed(0))
    contestants = (textbook, tensors, loops) if compiled.usable(points) else (textbook, tensors)
    for function in contestants:
        function(points)
    rounds = [[seconds(function, points) for function in contestants] for _ in range(repetitions)]
    print(f"{CLOUDS} x {POINTS} -> {GROUPS} x {SIZE}, {torch.get_num_threads()} threads, {repetitions} rounds")
    for place, function in enumerate(contestants):
        time = median(times[place] for times in rounds)
        ratio = median(times[0] / times[place] for times in rounds)
        print(f"{function.__name__:>10} {time * 1e3:8.1f} ms   {ratio:5.2f} x textbook")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
