"""Point-MAE: a plain ViT over patches of a point cloud (Pang et al., ECCV 2022, arXiv 2203.06604)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.layouts import POINT_MAE
from geopeft_cli.backbones.patch_encoder import PatchEncoder
from geopeft_cli.backbones.transformer import Trunk, block_sites
from geopeft_cli.contracts import Backbone, CheckpointLayout, Geometry, Level, Site, Tokens, published
from geopeft_cli.geometry.grouping import group


class PointMAE(Backbone):
    """The encoder of Point-MAE with a class token, as fine-tuned for classification.

    Args:
        width: channels C of a token.
        depth: number of blocks.
        heads: attention heads of a block.
        groups: number G of patches, 64 for 1024 points, 128 for 2048, 512 for 8192.
        group_size: points k in a patch.
        drop_path: stochastic depth of the last block.
        near_origin: whether farthest point sampling may choose points within 0.0316 of the origin.
    """

    name: ClassVar[str] = "point_mae"
    layout: ClassVar[CheckpointLayout] = POINT_MAE
    head_layout: ClassVar[str] = "mlp3"
    token_names: ClassVar[tuple[str, ...]] = ("cls_token", "cls_pos")

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        groups: int = 64,
        group_size: int = 32,
        drop_path: float = 0.1,
        near_origin: Literal["skip", "keep"] = "skip",
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads = width, depth, heads
        self.groups, self.group_size = groups, group_size
        self.drop_path, self.near_origin = drop_path, near_origin
        self.feature_width = 2 * width

        self.encoder = PatchEncoder(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = Trunk(width, depth, heads, drop_path)
        self.norm = nn.LayerNorm(width)
        for token in (self.cls_token, self.cls_pos):
            nn.init.trunc_normal_(token, std=0.02, a=-2.0, b=2.0)

    def settings(self) -> dict[str, Any]:
        names = ("width", "depth", "heads", "groups", "group_size", "drop_path", "near_origin")
        return {name: getattr(self, name) for name in names}

    def sites(self) -> list[Site]:
        first, second = self.encoder.first_conv, self.encoder.second_conv
        return [
            Site("encoder.first_conv.0", "patch_embedding", -1, None, first, "0"),
            Site("encoder.first_conv.3", "patch_embedding", -1, None, first, "3"),
            Site("encoder.second_conv.0", "patch_embedding", -1, None, second, "0"),
            Site("encoder.second_conv.3", "patch_embedding", -1, None, second, "3"),
            Site("pos_embed.0", "position", -1, None, self.pos_embed, "0"),
            Site("pos_embed.2", "position", -1, None, self.pos_embed, "2"),
            *block_sites(self.blocks.blocks, "blocks.blocks"),
        ]

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        """Sequence [class token, G patches in the order in which their centers were sampled].

        Args:
            points: (B, N, 3).
            layers: blocks whose raw outputs are wanted, 0-based.
        """
        neighborhoods, centers = group(points, self.groups, self.group_size, self.near_origin)[:2]
        patches = self.encoder(neighborhoods)
        batch = points.shape[0]
        x = torch.cat([self.cls_token.expand(batch, -1, -1), patches], dim=1)
        position = torch.cat([self.cls_pos.expand(batch, -1, -1), self.pos_embed(centers)], dim=1)
        slots = torch.arange(-1, self.groups, device=points.device)
        with published(Geometry([Level(centers, slots)])):
            x, kept = self.blocks(x, position, tuple(layers))
        return Tokens(self.norm(x), centers, slots, kept, places=slice(1, None))

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """[class token, maximum over the patches (+ fused)], (B, 2 C)."""
        maximum = tokens.spatial(tokens.features).amax(dim=1)
        if fused is not None:
            maximum = maximum + fused
        return torch.cat([tokens.features[:, 0], maximum], dim=1)
