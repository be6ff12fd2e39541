"""The two loops of grouping, compiled for the CPU where numba is installed.

They return what the tensor code in ``sampling`` and ``neighbors`` returns, to the last index: the same float32
operations in the same order, neither reassociated nor fused. Threads are plain ones around kernels that release
the GIL, as many as torch may use: nothing to go wrong in forked data loaders. Other devices and traced graphs take
the tensor code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from itertools import pairwise
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 128
_WORTH_A_THREAD = 2**25
_LEAST = np.iinfo(np.int32).min
_HIGHEST = np.iinfo(np.int32).max
_GREATEST = np.iinfo(np.int64).max
_disabled: ContextVar[bool] = ContextVar("disabled", default=False)


@contextmanager
def disabled() -> Iterator[None]:
    """Take the tensor code inside the block, in this thread."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def tracing(*tensors: Tensor) -> bool:
    """Whether no decision may depend on values: a graph is being recorded, or a tensor has none (meta, fake)."""
    if any(tensor.is_meta or type(tensor) is not Tensor for tensor in tensors):
        return True
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these tensors: plain, on the CPU, not traced, numba there and not disabled."""
    if _disabled.get() or tracing(*tensors):
        return False
    return all(tensor.device.type == "cpu" for tensor in tensors) and _numba() is not None


def walk(coordinates: Tensor, distance: Tensor, count: int) -> Tensor:
    """Farthest point picks, int64 (B, count), for coordinates (3, B, N) and first distances (B, N), overwritten."""
    batch, size = distance.shape
    picks = np.zeros((batch, count), dtype=np.int64)
    near = distance.numpy()
    _spread(_walk_rows, batch, size * count, *coordinates.numpy(), near, near.view(np.int32), picks)
    return torch.from_numpy(picks)


def select(reference: Tensor, query: Tensor, k: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
    """Index and squared distance, (B, M, k), for reference (B, 3, N) and query (B, M, 3), both contiguous."""
    batch, queries, _ = query.shape
    index = np.empty((batch, queries, k), dtype=np.int64)
    squared = np.empty((batch, queries, k), dtype=np.float32)
    arrays = (reference.numpy(), query.numpy(), exclude_self, index, squared)
    _spread(_select_rows, batch * queries, reference.shape[2], *arrays)
    return torch.from_numpy(index), torch.from_numpy(squared)


def _spread(kernel: Callable[..., None], rows: int, work: int, *arguments: Any) -> None:
    """Run a kernel on ``rows``, each of about ``work`` steps, in as many threads as are worth it."""
    run = _compile(kernel)
    workers = max(1, min(torch.get_num_threads(), rows, rows * work // _WORTH_A_THREAD))
    bounds = [rows * worker // workers for worker in range(workers + 1)]
    mine, *theirs = pairwise(bounds)
    others = [Thread(target=run, args=(*arguments, *pair)) for pair in theirs]
    for thread in others:
        thread.start()
    run(*arguments, *mine)
    for thread in others:
        thread.join()


@cache
def _numba() -> ModuleType | None:
    try:
        return import_module("numba")
    except ImportError:
        return None


@cache
def _compile(kernel: Callable[..., None]) -> Callable[..., None]:
    numba = _numba()
    assert numba is not None
    try:
        compiled: Callable[..., None] = numba.njit(nogil=True, cache=True)(kernel)
    except (RuntimeError, OSError):  # nowhere to write the cache
        compiled = numba.njit(nogil=True)(kernel)
    return compiled


# Both kernels find minima and maxima on the bits of the floats: among non-negative floats the integers are in the
# same order (and -1.0 is below all of them), and only integer reductions are vectorized without reassociating.
# Slices of a block instead of index arithmetic, and two inner loops instead of one, are for the vectorizer as well.


def _walk_rows(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    z: NDArray[np.float32],
    near: NDArray[np.float32],
    near_bits: NDArray[np.int32],
    picks: NDArray[np.int64],
    start: int,
    stop: int,
) -> None:
    size = x.shape[1]
    for row in range(start, stop):
        pick = 0
        for step in range(1, picks.shape[1]):
            px, py, pz = x[row, pick], y[row, pick], z[row, pick]
            farthest, home = _LEAST, 0
            for first in range(0, size, _BLOCK):
                last = min(first + _BLOCK, size)
                bx, by, bz = x[row, first:last], y[row, first:last], z[row, first:last]
                block, bits = near[row, first:last], near_bits[row, first:last]
                for i in range(last - first):
                    dx, dy, dz = bx[i] - px, by[i] - py, bz[i] - pz
                    distance = (dx * dx + dy * dy) + dz * dz
                    block[i] = distance if distance < block[i] else block[i]
                top = bits[0]
                for i in range(last - first):
                    top = max(top, bits[i])
                if top > farthest:
                    farthest, home = top, first
            pick = home
            while near_bits[row, pick] != farthest:
                pick += 1
            picks[row, step] = pick


def _select_rows(
    reference: NDArray[np.float32],
    query: NDArray[np.float32],
    exclude_self: bool,
    index: NDArray[np.int64],
    squared: NDArray[np.float32],
    start: int,
    stop: int,
) -> None:
    size, queries, k = reference.shape[2], query.shape[1], index.shape[2]
    distance = np.empty(size, dtype=np.float32)
    distance_bits = distance.view(np.int32)
    best = np.empty(k, dtype=np.int64)
    classes = max(64, 2 * k)
    minima = np.empty(classes, dtype=np.int32)
    for row in range(start, stop):
        cloud, place = row // queries, row % queries
        x, y, z = reference[cloud, 0], reference[cloud, 1], reference[cloud, 2]
        qx, qy, qz = query[cloud, place, 0], query[cloud, place, 1], query[cloud, place, 2]
        for i in range(size):
            dx, dy, dz = qx - x[i], qy - y[i], qz - z[i]
            distance[i] = (dx * dx + dy * dy) + dz * dz
        if exclude_self:
            distance[place] = np.inf
        best[:] = _GREATEST
        if size >= 4 * classes:
            minima[:] = distance_bits[:classes]
            for first in range(classes, size - classes + 1, classes):
                bits = distance_bits[first : first + classes]
                for i in range(classes):
                    minima[i] = min(minima[i], bits[i])
            bound = _HIGHEST
            for i in range(classes):
                rank = 0
                for j in range(classes):
                    rank += minima[j] <= minima[i]
                if rank >= k:
                    bound = min(bound, minima[i])
            best[:] = (np.int64(bound) << 32) | 0xFFFFFFFF
        for first in range(0, size, _BLOCK):
            bits = distance_bits[first : min(first + _BLOCK, size)]
            low = bits[0]
            for i in range(bits.shape[0]):
                low = min(low, bits[i])
            worst = best[k - 1]
            if low > worst >> 32:
                continue
            for i in range(bits.shape[0]):
                key = (np.int64(bits[i]) << 32) | (first + i)
                if key < worst:
                    slot = k - 1
                    while slot > 0 and best[slot - 1] > key:
                        best[slot] = best[slot - 1]
                        slot -= 1
                    best[slot] = key
                    worst = best[k - 1]
        for i in range(k):
            index[cloud, place, i] = best[i] & 0xFFFFFFFF
            squared[cloud, place, i] = distance[best[i] & 0xFFFFFFFF]
