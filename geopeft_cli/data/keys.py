"""Random generators keyed by what they are for, so that no draw depends on batch size, order or worker."""

from __future__ import annotations

import hashlib

import numpy as np


def derived_seed(*key: int | str) -> int:
    """A 128-bit seed from a tuple of integers and words, by SHA-256.

    ``1`` and ``"1"`` are different keys, and so are ``("ab", "c")`` and ``("a", "bc")``.
    """
    digest = hashlib.sha256(repr(tuple(_plain(part) for part in key)).encode()).digest()
    return int.from_bytes(digest[:16], "little")


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A fresh generator for ``key``: the same key gives the same draws.

    Args:
        key: the convention is (seed, purpose, epoch, sample index).
    """
    return np.random.Generator(np.random.PCG64(derived_seed(*key)))


def _plain(part: int | str) -> int | str:
    # numpy integers print differently from Python's, which would make a different key of the same number
    return part if isinstance(part, str) else int(part)
