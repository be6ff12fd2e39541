"""Multi-layer feature fusion in front of the head (MoST, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Tokens
from geopeft_cli.errors import UsageError


def fused_layers(blocks: Sequence[int], layers: int) -> tuple[int, ...]:
    """Evenly spaced ones of ``blocks``, the last among them: 3 of 0, 1, ..., 11 are 3, 7, 11.

    Raises:
        UsageError: more layers than blocks.
    """
    depth = len(blocks)
    if layers > depth:
        raise UsageError(f"task.fusion.layers: {layers} is more than the {depth} blocks of the backbone to choose from")
    step = depth // layers if layers else 0
    return tuple(blocks[depth - 1 - (layers - 1 - i) * step] for i in range(layers))


class Fusion(nn.Module):
    """LayerNorm of sum_i 2^i (max + mean over the spatial tokens of layer i), the last layer weighing most.

    Args:
        width: channels C of a token.
        layers: indices of the blocks that are fused.
        affine: whether the norm has a trainable weight and bias (2 C parameters).
    """

    def __init__(self, width: int, layers: Sequence[int], affine: bool) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.norm = nn.LayerNorm(width, elementwise_affine=affine)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, C), from the block outputs in ``tokens.layers``."""
        pooled = []
        for weight, index in enumerate(self.layers):
            spatial = tokens.spatial(tokens.layers[index])
            pooled.append(2**weight * (spatial.amax(dim=1) + spatial.mean(dim=1)))
        fused: Tensor = self.norm(torch.stack(pooled).sum(dim=0))
        return fused
