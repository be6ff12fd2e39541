"""Cutting serialized scenes into patches of tokens that attend to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PatchTables(NamedTuple):
    """How packed sequences become patches and come back.

    Attributes:
        pad: int64 (S,), for every slot of the patches the place in the sequences that fills it.
        unpad: int64 (N,), for every place its slot.
        starts: int64 (P + 1,), where the patches begin, and S.
    """

    pad: Tensor
    unpad: Tensor
    starts: Tensor


def patch_tables(sizes: Sequence[int], length: int) -> PatchTables:
    """Patches of ``length`` places; a sequence that is no longer is one patch, and another's last patch is filled up.

    What a last patch lacks are the places that stand at the same slots of the patch before it (Wu et al., CVPR 2024,
    arXiv 2312.10035, in the released code): copies that are attended to and whose outputs are dropped.

    Args:
        sizes: of the sequences, which stand one after the other.
        length: places in a patch.
    """
    pads, unpads, starts, place, slot = [], [], [0], 0, 0
    for size in sizes:
        own = torch.arange(size)
        unpads.append(own + slot)
        if size > length:
            padded = -(-size // length) * length
            own = torch.cat([own, torch.arange(size - length, padded - length)])
            starts += range(slot + length, slot + padded, length)
        pads.append(own + place)
        place, slot = place + size, slot + len(own)
        starts.append(slot)
    return PatchTables(torch.cat(pads), torch.cat(unpads), torch.tensor(starts))


class Patches(NamedTuple):
    """The rows of a scene tensor in their patches.

    Attributes:
        rows: for every length that occurs, int64 (P, length): which rows its patches hold.
        back: int64 (N,), for every row its place in all patches of ``rows`` one after the other.
    """

    rows: tuple[Tensor, ...]
    back: Tensor


def patches(order: Tensor, sizes: Sequence[int], length: int) -> Patches:
    """Patches of scenes along a curve, those of one length together.

    Args:
        order: int64 (N,), the rows along the curve, scene after scene.
        sizes: rows of every scene.
        length: see :func:`patch_tables`.
    """
    tables = patch_tables(sizes, length)
    pad, unpad = tables.pad.to(order.device), tables.unpad.to(order.device)
    lengths = tables.starts.diff()
    slots, rows = [], []
    for one in lengths.unique().tolist():
        first = tables.starts[:-1][lengths == one]
        chosen = (first[:, None] + torch.arange(one)).to(order.device)
        slots.append(chosen.flatten())
        rows.append(order[pad[chosen]])
    place = torch.empty_like(pad)
    place[torch.cat(slots)] = torch.arange(len(pad), device=order.device)
    back = torch.empty_like(order)
    back[order] = place[unpad]
    return Patches(tuple(rows), back)
