"""Monarch matrices: two block-diagonal factors with a stride permutation between them (Dao et al., ICML 2022)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geopeft_cli.errors import UsageError
from geopeft_cli.methods.blocks import DENSE, make_blocks, multiply
from geopeft_cli.methods.monarch_product import MonarchProduct


class MonarchFactors(nn.Module):
    """The map x -> P L P^T R x from ``in`` to ``out`` channels, with L zero at the start.

    With b blocks, p = ceil(in / b), s = ceil(out / b), q = min(p, s): ``blkdiag1`` (R) is (b, q, p), ``blkdiag2``
    (L) is (b, s, q), and ``bias`` (out,) is optional. Sizes that b does not divide are padded with zeros at the
    end. Names, shapes and index order are those of the code released with MoST. Blocks that are not dense have
    leaves of their own, such as ``blkdiag1.u``.

    Args:
        inputs: channels in.
        outputs: channels out.
        blocks: b.
        bias: whether there is one.
        factor: structure of the blocks, see :func:`geopeft_cli.methods.blocks.make_blocks`; dense by default.

    Raises:
        UsageError: more blocks than channels, or a structure that does not fit the blocks.
    """

    def __init__(
        self, inputs: int, outputs: int, blocks: int, bias: bool = False, factor: Mapping[str, Any] = DENSE
    ) -> None:
        super().__init__()
        if blocks > min(inputs, outputs):
            raise UsageError(
                f"method.blocks: {blocks} blocks do not fit a layer of {inputs} -> {outputs} channels",
                f"At most {min(inputs, outputs)}.",
            )
        self.inputs, self.outputs, self.blocks = inputs, outputs, blocks
        self.p, self.s = math.ceil(inputs / blocks), math.ceil(outputs / blocks)
        self.q = min(self.p, self.s)
        self.blkdiag1 = make_blocks(factor, (blocks, self.q, self.p), zero=False)
        self.blkdiag2 = make_blocks(factor, (blocks, self.s, self.q), zero=True)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., out), without the bias, which belongs behind K-Rectify.

        Args:
            x: (..., in).
            onto: (rows, out), not a view; the product is added to it in place, and it is returned.
        """
        b, q, p = self.blocks, self.q, self.p
        rows = x.reshape(-1, self.inputs)
        if b * p != self.inputs:
            rows = nn.functional.pad(rows, (0, b * p - self.inputs))
        if self._has_own_backward(rows):
            y: Tensor = MonarchProduct.apply(rows, self.blkdiag1, self.blkdiag2, onto, self.outputs)  # type: ignore[no-untyped-call]
            return y if onto is not None else y.reshape(*x.shape[:-1], self.outputs)
        hidden = multiply(rows.unflatten(1, (b, p)).transpose(0, 1), self.blkdiag1)  # (b, rows, q)
        # the same numbers of a row, read as (q, b) instead of (b, q): the stride permutation
        hidden = hidden.transpose(0, 1).flatten(1).unflatten(1, (q, b)).permute(2, 0, 1)
        result = multiply(hidden, self.blkdiag2)  # (b, rows, s)
        y = result.permute(1, 2, 0).flatten(1)[:, : self.outputs]
        return onto.add_(y) if onto is not None else y.reshape(*x.shape[:-1], self.outputs)

    def _has_own_backward(self, rows: Tensor) -> bool:
        """Whether :class:`MonarchProduct` computes this: not for other structures, other types or exported programs."""
        device = rows.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if autocast or torch.compiler.is_compiling():
            return False
        return isinstance(self.blkdiag1, Tensor) and self.blkdiag1.dtype == rows.dtype

    @torch.no_grad()
    def dense(self) -> Tensor:
        """The matrix, float64 (out, in)."""
        device = next(self.parameters()).device
        identity = torch.eye(self.inputs, dtype=torch.float64, device=device)
        columns: Tensor = copy.deepcopy(self).double()(identity)
        return columns.mT

    @property
    def nonzero_fraction(self) -> float:
        """Share of the dense matrix that is not structurally zero: min(1, q / b)."""
        return min(1.0, self.q / self.blocks)

    @property
    def padding(self) -> tuple[int, int]:
        """Channels added to (in, out) so that the blocks divide them."""
        return self.blocks * self.p - self.inputs, self.blocks * self.s - self.outputs


@torch.no_grad()
def project_to_monarch(dense: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """``blkdiag1`` and ``blkdiag2`` of the Monarch matrix nearest to a dense one (Dao et al., 2022, section 3.2).

    Args:
        dense: (out, in).
        blocks: b, which must divide the inner width q so that all tiles have the same rank q / b.

    Raises:
        UsageError: b does not divide q.
    """
    outputs, inputs = dense.shape
    p, s = math.ceil(inputs / blocks), math.ceil(outputs / blocks)
    q = min(p, s)
    if q % blocks:
        raise UsageError(
            f"a {outputs} x {inputs} matrix has no projection onto {blocks} blocks", f"{blocks} must divide {q}."
        )
    padded = nn.functional.pad(dense.double(), (0, blocks * p - inputs, 0, blocks * s - outputs))
    tiles = padded.unflatten(1, (blocks, p)).unflatten(0, (s, blocks)).permute(2, 1, 0, 3)  # (k, j, s, p)
    u, values, vh = torch.linalg.svd(tiles, full_matrices=False)
    rank = q // blocks
    root = values[..., :rank].sqrt()
    first, second = root.unsqueeze(-1) * vh[..., :rank, :], u[..., :rank] * root.unsqueeze(-2)
    return first.transpose(1, 2).flatten(1, 2).to(dense.dtype), second.permute(1, 2, 0, 3).flatten(2).to(dense.dtype)
