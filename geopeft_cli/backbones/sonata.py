"""Sonata: a self-supervised Point Transformer V3 encoder (Wu et al., CVPR 2025, arXiv 2503.16429)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.layouts import SONATA
from geopeft_cli.backbones.scene_blocks import Norm
from geopeft_cli.backbones.scene_level import SceneLevel
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import CheckpointLayout, Site
from geopeft_cli.geometry.sparse_convolution import SubmanifoldConvolution

BASE: dict[str, Any] = {"widths": (48, 96, 192, 384, 512), "depths": (3, 3, 3, 12, 3)}
SMALL: dict[str, Any] = {"widths": (32, 64, 128, 256, 512), "depths": (2, 2, 2, 6, 2)}
DECODER: dict[str, Any] = {
    "decoder_widths": (64, 96, 192, 384),
    "decoder_depths": (2, 2, 2, 2),
    "decoder_heads": (4, 6, 12, 24),
}


class Embedding(nn.Module):
    """Linear, LayerNorm, GELU: (N, in) -> (N, C).

    ``mask_token`` stands for masked voxels in pre-training, and is kept for files that hold it.
    """

    def __init__(self, inputs: int, outputs: int, mask_token: bool) -> None:
        super().__init__()
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, outputs))
        layers = {"linear": nn.Linear(inputs, outputs), "norm": nn.LayerNorm(outputs), "act": nn.GELU()}
        self.stem = nn.Sequential(OrderedDict(layers))

    def forward(self, features: Tensor) -> Tensor:
        return self.stem(features)  # type: ignore[no-any-return]


class Sonata(SceneTransformer):
    """The encoder, or with a new decoder; the released weights are licensed CC-BY-NC-4.0.

    Args:
        mask_token: whether there is the token of the pre-training, which no feature depends on.
        settings: see :class:`SceneTransformer`; by default the released encoder.
    """

    name: ClassVar[str] = "sonata"
    layout: ClassVar[CheckpointLayout] = SONATA
    norm: ClassVar[Norm] = nn.LayerNorm
    stem: ClassVar[str] = "embedding.stem.linear."
    stale_skip: ClassVar[bool] = False

    def __init__(self, in_channels: int = 9, mask_token: bool = True, **settings: Any) -> None:
        self.mask_token = mask_token
        super().__init__(in_channels, **({**BASE, **settings}))
        self.apply(_initialized)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "mask_token": self.mask_token}

    def make_embedding(self) -> nn.Module:
        return Embedding(self.in_channels, self.widths[0], self.mask_token)

    def embedding_sites(self) -> list[Site]:
        owner = self.embedding.get_submodule("stem")
        return [Site("embedding.stem.linear", "patch_embedding", -1, 0, owner, "linear")]

    def pooled(self, level: SceneLevel, stride: int, curves: Sequence[str]) -> SceneLevel:
        return level.pooled(stride, curves, self.serialization_depth)


def _initialized(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | SubmanifoldConvolution):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
