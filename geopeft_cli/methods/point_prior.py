"""The Point-prior Prompt of Point-PEFT: what a frozen copy of the network remembers of similar training clouds."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.contracts import (
    Backbone,
    Geometry,
    Memory,
    load_official_state,
    official_parameters,
    official_state,
)
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.precision import full_precision

Precision = Literal["fp32", "fp16"]


def frozen_copy(backbone: Backbone, own: Collection[str]) -> Backbone:
    """The network as it was pre-trained, which shares all parameters but those that it needs for its ``own``."""
    parameters = official_parameters(backbone)
    shared = {id(parameter): parameter for name, parameter in parameters.items() if name not in own}
    network = copy.deepcopy(backbone, shared)
    network.regroup()
    load_official_state(network, network.pretrained)
    return network.requires_grad_(False).eval()


class Bank(Memory):
    """Directions of what the frozen network says of every training cloud, and the attention to the nearest of them.

    Args:
        backbone: the network before any method changed it.
        own: official names of its parameters that will move.
        rows: P of :meth:`enhanced`, which looks up P - 2 columns.
        per_class: how many clouds of a class are kept, evenly spaced in the order of the data; ``None`` for all.
        precision: of the columns.
    """

    network: Backbone

    def __init__(
        self, backbone: Backbone, own: Collection[str], rows: int, per_class: int | None, precision: Precision
    ) -> None:
        super().__init__()
        self.width, self.rows, self.per_class, self.precision = backbone.width, rows, per_class, precision
        dtype = torch.float16 if precision == "fp16" else torch.float32
        self.register_buffer("columns", torch.zeros(self.width, 0, dtype=dtype))
        object.__setattr__(
            self, "network", frozen_copy(backbone, own)
        )  # no part of the model: neither saved nor trained

    def settings(self) -> dict[str, Any]:
        return {**self.network.settings(), "name": self.network.name}

    def sources(self) -> dict[str, Tensor]:
        return official_state(self.network)

    @torch.no_grad()
    def describe(self, points: Tensor, geometry: Geometry | None = None) -> Tensor:
        """The vectors (B, D) of clouds (B, N, 3), with what a pass over the same clouds computed, if there is one."""
        with full_precision(points.device):
            return self.network.describe(points.float(), geometry).float()

    @torch.no_grad()
    def fill(self, vectors: Tensor, labels: Tensor) -> None:
        if self.per_class is not None:
            vectors = vectors[_spaced(labels, self.per_class)]
        if len(vectors) < self.rows - 2:
            raise UsageError(
                f"method.prompts: {self.rows} prompts look up {self.rows - 2} training clouds, "
                f"the bank has {len(vectors)}",
                "Use fewer prompts, or more clouds.",
            )
        columns = F.normalize(vectors.float(), dim=1, eps=1e-12).t().contiguous()
        self.columns = columns.to(self.columns.dtype).to(self.columns.device)

    def takes(self, columns: Tensor) -> bool:
        fits = columns.ndim == 2 and columns.shape[0] == self.width and columns.dtype == self.columns.dtype
        return fits and columns.shape[1] >= self.rows - 2

    @torch.no_grad()
    def enhanced(self, geometry: Geometry) -> Tensor:
        """Query, weighted sum of its nearest columns, and these by falling similarity: (B, P, D).

        Raises:
            UsageError: the bank is empty.
        """
        if self.columns.shape[1] == 0:
            raise UsageError(
                "the bank of Point-PEFT is empty", "It is built by geopeft finetune, from the training split."
            )
        assert geometry.points is not None
        return self.attended(self.describe(geometry.points, geometry))[0]

    def attended(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For queries (B, D): rows (B, P, D), and similarities and indices (B, P - 2) of the columns among them."""
        columns = self.columns.float()
        similarity = F.normalize(query, dim=1) @ columns
        nearest, index = similarity.topk(self.rows - 2, dim=1)
        found = columns.t()[index]
        mixed = (nearest.softmax(dim=1).unsqueeze(-1) * found).sum(dim=1)
        return torch.cat([torch.stack([query, mixed], dim=1), found], dim=1), nearest, index

    def _apply(self, fn: Any, recurse: bool = True) -> Bank:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _spaced(labels: Tensor, count: int) -> Tensor:
    """Indices of ``count`` entries of every label, evenly spaced, in their order; of all where there are fewer."""
    kept = []
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        kept.append(own[torch.arange(min(count, len(own))) * len(own) // min(count, len(own))])
    return torch.cat(kept).sort().values
