"""The 4 nearest neighbors in large clouds: all pairs, the hashed grid, and whether they agree.

    python tests/benchmarks/neighbors.py [points ...]

Clouds are uniform in a cube and, where GEOPEFT_TEST_DATA has them, a row of real table-top scans side by side. All
pairs are left out where they would take minutes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from geopeft_cli.geometry.compiled import disabled
from geopeft_cli.geometry.grid import grid_neighbors
from geopeft_cli.geometry.neighbors import Neighbors, nearest_neighbors

NEIGHBORS = 4
WITHOUT_NUMBA, ALL_PAIRS = 20_000, 200_000  # points up to which all pairs are taken
DATA = Path(os.environ.get("GEOPEFT_TEST_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))


def clouds(points: int) -> Iterator[tuple[str, Tensor]]:
    yield "uniform", torch.rand(points, 3, generator=torch.Generator().manual_seed(0))
    scans = DATA / "mosd_8192.npz"
    if scans.is_file():
        found = torch.from_numpy(np.load(scans)["points"]).float()[:points]
        scene = torch.arange(len(found)) // 8192
        yield "scans", found + 3.0 * torch.stack([scene // 10, scene % 10, 0 * scene], dim=1)


def tensors(cloud: Tensor) -> Neighbors:
    with disabled():
        return nearest_neighbors(cloud[None], cloud[None], NEIGHBORS, exclude_self=True)


def loops(cloud: Tensor) -> Neighbors:
    return nearest_neighbors(cloud[None], cloud[None], NEIGHBORS, exclude_self=True)


def grid(cloud: Tensor) -> Neighbors:
    return grid_neighbors(cloud[None], cloud[None], NEIGHBORS, exclude_self=True)


def main(sizes: list[int]) -> None:
    loops(torch.rand(100, 3))
    print(f"{torch.get_num_threads()} threads, k = {NEIGHBORS}")
    for points in sizes:
        for name, cloud in clouds(points):
            results, words = [], []
            for function, most in ((tensors, WITHOUT_NUMBA), (loops, ALL_PAIRS), (grid, sys.maxsize)):
                if len(cloud) > most:
                    continue
                start = perf_counter()
                results.append(function(cloud))
                words.append(f"{function.__name__} {perf_counter() - start:7.3f} s")
            agree = all(torch.equal(one.index, results[0].index) for one in results[1:])
            words.append("" if len(results) == 1 else "all agree" if agree else "THEY DIFFER")
            print(f"{len(cloud):>8} {name:>8}  {'  '.join(words)}")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [2048, 8192, 20_000, 100_000])
