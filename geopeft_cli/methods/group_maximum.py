"""The maximum over groups of rows, without keeping the groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geopeft_cli.geometry.compiled import tracing

ELEMENTS_AT_ONCE = 2**18  # of groups written out: 1 MiB stays near a CPU core
ELEMENTS_AT_ONCE_ON_DEVICE = 2**26


def group_maximum(rows: Tensor, members: Tensor, mixed: Tensor, weight: Tensor) -> Tensor:
    """The maximum over j of rows[members[q, j]] + weight mixed[q, j], by channel.

    Written out, the groups are k S / T times as large as the tokens; neither they nor their gradients ever are whole.

    Args:
        rows: (M, C).
        members: int64 (Q, k), into M.
        mixed: (Q, k, w).
        weight: (C, w).

    Returns:
        (Q, C). Of equal members the gradient goes to one.
    """
    mixed, weight = mixed.to(rows.dtype), weight.to(rows.dtype)
    if tracing(rows, mixed):
        return (rows[members] + mixed @ weight.t()).amax(dim=1)
    found: Tensor = _GroupMaximum.apply(rows, members, mixed, weight)  # type: ignore[no-untyped-call]
    return found


class _GroupMaximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, members: Tensor, mixed: Tensor, weight: Tensor) -> Tensor:
        channels = rows.shape[1]
        found = rows.new_empty(len(members), channels)
        winner = torch.empty(found.shape, dtype=torch.int64, device=rows.device)
        for part in _parts(members, channels):
            groups = rows.index_select(0, members[part].flatten())
            groups.addmm_(mixed[part].flatten(0, 1), weight.t())
            torch.max(groups.view(-1, members.shape[1], channels), dim=1, out=(found[part], winner[part]))
        ctx.save_for_backward(members, mixed, weight, winner)
        ctx.rows = len(rows)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        members, mixed, weight, winner = ctx.saved_tensors
        of_rows = gradient.new_zeros(ctx.rows, gradient.shape[1])
        of_rows.scatter_add_(0, members.gather(1, winner), gradient)
        of_mixed, of_weight = torch.empty_like(mixed), torch.zeros_like(weight)
        for part in _parts(members, gradient.shape[1]):
            chosen = winner[part].unsqueeze(1)
            groups = gradient.new_zeros(len(chosen), members.shape[1], gradient.shape[1])
            groups = groups.scatter_(1, chosen, gradient[part].unsqueeze(1)).flatten(0, 1)
            of_mixed[part] = (groups @ weight).view_as(mixed[part])
            of_weight.addmm_(groups.t(), mixed[part].flatten(0, 1))
        return of_rows, None, of_mixed, of_weight


def _parts(members: Tensor, channels: int) -> Iterator[slice]:
    budget = ELEMENTS_AT_ONCE if members.device.type == "cpu" else ELEMENTS_AT_ONCE_ON_DEVICE
    step = max(1, budget // (members.shape[1] * channels))
    for first in range(0, len(members), step):
        yield slice(first, first + step)
