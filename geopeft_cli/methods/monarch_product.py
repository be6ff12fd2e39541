"""Product with a Monarch matrix of dense blocks, with a backward pass of its own.

What autograd derives from the formula copies tensors into transposed layouts with strides of single numbers, which
takes longer than the products. Here the stride permutation is a selection of columns, forward and backward, every
product reads and writes slices of rows, and on a CPU a few rows go all the way at a time, while they are in its cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 256  # at a time, on a CPU


class MonarchProduct(torch.autograd.Function):
    """rows (R, b p) -> (R, out), or ``onto`` (R, out) plus that, in place.

    Args (of ``apply``):
        rows: (R, b p), padded.
        first: ``blkdiag1`` (b, q, p).
        second: ``blkdiag2`` (b, s, q).
        onto: (R, out), not a view; ``None`` for the product alone.
        outputs: out, at most b s.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, first: Tensor, second: Tensor, onto: Tensor | None, outputs: int) -> Tensor:
        (b, q, _), s = first.shape, second.shape[1]
        to_second, to_outputs = _strided(q, b, rows.device), _strided(b, s, rows.device)[:outputs]
        hidden = rows.new_empty(len(rows), b * q)
        result = rows.new_empty(len(rows), outputs) if onto is None else onto
        for part in _parts(rows):
            torch.index_select(_by_block(rows[part], first.mT), 1, to_second, out=hidden[part])
            product = _by_block(hidden[part], second.mT)
            if onto is None:
                torch.index_select(product, 1, to_outputs, out=result[part])
            else:
                result[part].add_(product.index_select(1, to_outputs))
        ctx.save_for_backward(rows, hidden, first, second)
        if onto is not None:
            ctx.mark_dirty(onto)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, first, second = ctx.saved_tensors
        needs_rows, needs_first, needs_second, needs_onto, _ = ctx.needs_input_grad
        (b, q, _), s = first.shape, second.shape[1]
        padding = b * s - grad.shape[1]
        from_outputs, from_second = _strided(s, b, grad.device), _strided(b, q, grad.device)
        of_rows = torch.empty_like(rows) if needs_rows else None
        of_first = torch.zeros_like(first) if needs_first else None
        of_second = torch.zeros_like(second) if needs_second else None
        for part in _parts(rows):
            of_product = torch.nn.functional.pad(grad[part], (0, padding)) if padding else grad[part]
            of_product = of_product.index_select(1, from_outputs)
            if of_second is not None:
                _add_of_blocks(of_second, of_product, hidden[part])
            if of_first is None and of_rows is None:
                continue
            of_hidden = _by_block(of_product, second).index_select(1, from_second)
            if of_first is not None:
                _add_of_blocks(of_first, of_hidden, rows[part])
            if of_rows is not None:
                _by_block(of_hidden, first, out=of_rows[part])
        return of_rows, of_first, of_second, grad if needs_onto else None, None


def _parts(rows: Tensor) -> Iterator[slice]:
    step = ROWS if rows.device.type == "cpu" else max(len(rows), 1)
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _by_block(rows: Tensor, blocks: Tensor, out: Tensor | None = None) -> Tensor:
    """(R, b i) times (b, i, j) -> (R, b j), block by block."""
    b, _, j = blocks.shape
    result = rows.new_empty(len(rows), b * j) if out is None else out
    torch.bmm(rows.unflatten(1, (b, -1)).transpose(0, 1), blocks, out=result.unflatten(1, (b, j)).transpose(0, 1))
    return result


def _add_of_blocks(total: Tensor, grad: Tensor, rows: Tensor) -> None:
    """Add the gradient (b, j, i) of the blocks, from that of their output (R, b j) and their input (R, b i)."""
    b = len(total)
    total.baddbmm_(grad.unflatten(1, (b, -1)).permute(1, 2, 0), rows.unflatten(1, (b, -1)).transpose(0, 1))


def _strided(outer: int, inner: int, device: torch.device) -> Tensor:
    """Columns of (outer, inner), read with the outer index running fastest: 0, inner, 2 inner, ..., 1, ..."""
    return torch.arange(outer * inner, device=device).view(outer, inner).T.reshape(-1)
