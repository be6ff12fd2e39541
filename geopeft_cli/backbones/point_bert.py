"""Point-BERT: a plain ViT that predicts discrete tokens of masked patches (Yu et al., CVPR 2022, arXiv 2111.14819)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from geopeft_cli.backbones.layouts import POINT_BERT
from geopeft_cli.backbones.patch_encoder import PatchEncoder
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.contracts import CheckpointLayout, Site


class PointBERT(PatchTransformer):
    """The encoder of Point-BERT, whose patches have fewer channels than its tokens.

    Args:
        width, depth, heads, groups, group_size, drop_path, near_origin: see :class:`PatchTransformer`.
        encoder_width: channels of a patch, which ``reduce_dim`` takes to ``width``.
    """

    name: ClassVar[str] = "point_bert"
    layout: ClassVar[CheckpointLayout] = POINT_BERT
    head_layout: ClassVar[str] = "mlp2"

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        groups: int = 64,
        group_size: int = 32,
        drop_path: float = 0.1,
        near_origin: Literal["skip", "keep"] = "skip",
        encoder_width: int = 256,
    ) -> None:
        super().__init__(width, depth, heads, groups, group_size, drop_path, near_origin)
        self.encoder_width = encoder_width
        self.encoder = PatchEncoder(encoder_width)
        self.reduce_dim = nn.Linear(encoder_width, width)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"encoder_width": self.encoder_width}

    def sites_behind_encoder(self) -> list[Site]:
        return [Site("reduce_dim", "patch_embedding", -1, None, self, "reduce_dim")]

    def patches(self, neighborhoods: Tensor) -> Tensor:
        tokens: Tensor = self.reduce_dim(self.encoder(neighborhoods))
        return tokens
