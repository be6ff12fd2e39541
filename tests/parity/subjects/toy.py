"""The toy transformer of ``peft_interop``, small enough that an adapter of every kind of layer fits in a few kB."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Toy(nn.Module):
    """Points (B, N, 3) -> logits (B, classes); all sizes are those of its weights.

    Args:
        weights: the state that it starts with.
        depth: number of blocks.
    """

    def __init__(self, weights: Mapping[str, Tensor], depth: int) -> None:
        super().__init__()
        classes, width = weights["cls_head_finetune.weight"].shape
        hidden = weights["blocks.blocks.0.mlp.fc1.weight"].shape[0]
        self.encoder = nn.Module()
        self.encoder.first_conv = nn.Conv1d(3, width, 1)
        self.blocks = nn.Module()
        self.blocks.blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.cls_head_finetune = nn.Linear(width, classes)
        self.load_state_dict(weights)
        self.task = SimpleNamespace(head_names=("cls_head_finetune",))  # what saving and loading ask of a task

    def forward(self, points: Tensor) -> Tensor:
        x = self.encoder.first_conv(points.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks.blocks:
            x = block(x)
        logits: Tensor = self.cls_head_finetune(self.norm(x).amax(dim=1))
        return logits


class Block(nn.Module):
    """Attention with one head and a feed-forward part with ReLU, both residual and behind a norm."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width, bias=False), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + self.attn["proj"](weights @ v)
        return x + self.mlp["fc2"](torch.relu(self.mlp["fc1"](self.norm2(x))))
