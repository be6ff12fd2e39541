"""Product with a Monarch matrix of dense blocks, with a backward pass of its own.

What autograd derives from the formula copies tensors into transposed layouts with strides of single numbers, which
takes longer than the products. Here the stride permutation is a selection of columns, forward and backward, and every
product reads and writes slices of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        b, q, _ = first.shape
        hidden = _by_block(rows, first.mT).index_select(1, _strided(q, b, rows.device))
        product = _by_block(hidden, second.mT)
        product = product.index_select(1, _strided(b, second.shape[1], rows.device)[:outputs])
        ctx.save_for_backward(rows, hidden, first, second)
        if onto is None:
            return product
        ctx.mark_dirty(onto)
        return onto.add_(product)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, first, second = ctx.saved_tensors
        needs_rows, needs_first, needs_second, needs_onto, _ = ctx.needs_input_grad
        b, q, _ = first.shape
        s, padding = second.shape[1], b * second.shape[1] - grad.shape[1]
        of_product = torch.nn.functional.pad(grad, (0, padding)) if padding else grad
        of_product = of_product.index_select(1, _strided(s, b, grad.device))
        of_second = _of_blocks(of_product, hidden, b) if needs_second else None
        of_first = of_rows = None
        if needs_first or needs_rows:
            of_hidden = _by_block(of_product, second).index_select(1, _strided(b, q, grad.device))
            of_first = _of_blocks(of_hidden, rows, b) if needs_first else None
            of_rows = _by_block(of_hidden, first) if needs_rows else None
        return of_rows, of_first, of_second, grad if needs_onto else None, None


def _by_block(rows: Tensor, blocks: Tensor) -> Tensor:
    """(R, b i) times (b, i, j) -> (R, b j), block by block."""
    b, _, j = blocks.shape
    result = rows.new_empty(len(rows), b * j)
    torch.bmm(rows.unflatten(1, (b, -1)).transpose(0, 1), blocks, out=result.unflatten(1, (b, j)).transpose(0, 1))
    return result


def _of_blocks(grad: Tensor, rows: Tensor, b: int) -> Tensor:
    """Gradient (b, j, i) of the blocks from that of their output (R, b j) and their input (R, b i)."""
    return torch.bmm(grad.unflatten(1, (b, -1)).permute(1, 2, 0), rows.unflatten(1, (b, -1)).transpose(0, 1))


def _strided(outer: int, inner: int, device: torch.device) -> Tensor:
    """Columns of (outer, inner), read with the outer index running fastest: 0, inner, 2 inner, ..., 1, ..."""
    return torch.arange(outer * inner, device=device).view(outer, inner).T.reshape(-1)
