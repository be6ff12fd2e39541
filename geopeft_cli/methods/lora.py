"""LoRA: a trainable low-rank update beside frozen dense layers (Hu et al., ICLR 2022, arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import BLOCK_ROLES, Backbone, Calibration, DenseUpdate, Foldable, Method, select_sites
from geopeft_cli.methods.dense import Dense, dense_layer, like, sizes, with_update


class LoRA(Method):
    """Mergeable, geometry-free, step-0 identity; the adapter directory loads in Hugging Face peft.

    Args:
        rank: r of the update.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the update, in training.
        rslora: scale by alpha / sqrt(r) instead (Kalajdzievski, 2023, arXiv 2312.03732).
        targets: roles or names of the layers to adapt.
    """

    name: ClassVar[str] = "lora"

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 8.0,
        dropout: float = 0.0,
        rslora: bool = False,
        targets: Sequence[str] = BLOCK_ROLES,
    ) -> None:
        self.rank, self.alpha, self.dropout, self.rslora, self.targets = rank, alpha, dropout, rslora, tuple(targets)

    def settings(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "rslora": self.rslora,
            "targets": list(self.targets),
        }

    def attach(self, backbone: Backbone) -> None:
        scale = self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
        for site in select_sites(backbone, self.targets):
            site.replace(LowRankUpdate(dense_layer(site), self.rank, scale, self.dropout))


class LowRankUpdate(Foldable):
    """y = base(x) + scale B A dropout(x), with B zero at the start.

    Shapes: A (rank, in), B (out, rank); for convolutions of kernel 1 a trailing axis of 1. Tensor names are
    those of peft: ``lora_A.weight``, ``lora_B.weight``.
    """

    base: Dense

    def __init__(self, base: Dense, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base)
        inputs, outputs = sizes(base)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora_A = like(base, inputs, rank, bias=False)
        self.lora_B = like(base, rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        # No backward pass needs the output of a dense layer, so the sum may take its place: one wide tensor less a
        # layer. Of rows the layer makes a tensor, of anything else a view, which autograd would copy.
        rows = x.flatten(0, -2) if isinstance(self.base, nn.Linear) else x
        y: Tensor = self.base(rows)
        # the scale is applied where the tensor is narrowest
        y = y.add_(self.lora_B(self.scale * self.lora_A(self.dropout(rows))))
        return y.unflatten(0, x.shape[:-1]) if rows is not x else y

    @property
    def exact_modes(self) -> tuple[str, ...]:
        return ("exact",)

    @torch.no_grad()
    def dense_update(self, mode: str, calibration: Calibration | None = None) -> DenseUpdate:
        down, up = self.lora_A.weight.flatten(1).double(), self.lora_B.weight.flatten(1).double()
        return DenseUpdate(self.scale * (up @ down))

    def folded(self, mode: str, calibration: Calibration | None = None) -> nn.Module:
        return with_update(self.base, self.dense_update(mode))
