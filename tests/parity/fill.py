"""Tensors from names: every parameter and most inputs of a golden set are made here instead of being stored."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Floats = NDArray[np.float32]

TOKENS = ("cls_token", "cls_pos", "mask_token", "sos_pos")


def generator(name: str) -> np.random.Generator:
    """PCG64, seeded with the first eight bytes (little endian) of the SHA-256 of ``name``."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def fill(name: str, shape: Sequence[int]) -> Array:
    """The tensor of ``name``: float32, or int64 zeros for the batch counters of BatchNorm.

    With n standard normal, the last part of the name and the shape decide between 1 + 0.1 |n| (running
    variances), 1 + 0.1 n (weights of norms), n / sqrt(fan-in) (two dimensions or more, tokens excepted), and
    0.1 n (all else).
    """
    leaf, shape = name.rpartition(".")[2], tuple(shape)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    normal = np.asarray(generator(name).standard_normal(shape, np.float32))
    small = np.float32(0.1) * normal
    if leaf == "running_var":
        return np.float32(1) + np.abs(small)
    if leaf == "weight" and len(shape) == 1:
        return np.float32(1) + small
    if len(shape) > 1 and leaf not in TOKENS:
        # divided in float64 and rounded once, whatever the promotion rules of the installed numpy
        return (normal.astype(np.float64) / math.sqrt(max(math.prod(shape[1:]), 1))).astype(np.float32)
    return small


def cloud(name: str, batch: int, points: int, channels: int = 3) -> Floats:
    """Clouds (batch, points, channels): xyz uniform in the unit ball, further channels uniform in [0, 1)."""
    draw = generator(name)
    direction = draw.standard_normal((batch, points, 3), np.float32)
    radius = draw.random((batch, points, 1), np.float32) ** np.float32(1 / 3)
    xyz = direction * (radius / np.linalg.norm(direction, axis=-1, keepdims=True))
    extra = draw.random((batch, points, channels - 3), np.float32)
    return np.concatenate([xyz, extra], axis=-1)
