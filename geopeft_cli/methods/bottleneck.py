"""The bottleneck of Point-PEFT (arXiv 2310.03059)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """W2 dropout(g(W1 x + b1)) + b2 with g(x) = x sigmoid(1.702 x): (..., C) -> (..., C).

    The Linears have the official names, which are not those of norms.

    Args:
        width: C.
        hidden: rows of W1.
        dropout: behind the activation, in training.
        silent: whether W2 and b2 are zero at the start.
    """

    def __init__(self, width: int, hidden: int, dropout: float, silent: bool = False) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.ln1, self.ln2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        if silent:
            nn.init.zeros_(self.ln2.weight)
            nn.init.zeros_(self.ln2.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.ln1(x)
        y: Tensor = self.ln2(self.dropout(hidden * torch.sigmoid(1.702 * hidden)))
        return y
