"""Mamba3D: selective scans over patches, with local pooling between them (Han et al., 2024, arXiv 2404.14966)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.coupled import CoupledBackbone, Variant
from geopeft_cli.backbones.layouts import MAMBA3D
from geopeft_cli.backbones.mamba import NEIGHBORS, MambaTrunk, mamba_sites
from geopeft_cli.backbones.patch_encoder import PatchEncoder
from geopeft_cli.backbones.transformer import patch_encoder_sites
from geopeft_cli.contracts import CheckpointLayout, Geometry, Level, Site, Tokens, published
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.neighbors import nearest_neighbors


class Mamba3D(CoupledBackbone):
    """The encoder of Mamba3D with a class token, as fine-tuned for classification.

    Args:
        width: channels C of a token.
        depth: number of blocks.
        groups: number G of patches, 128 for 1024 points as well as for 2048; at least 4.
        group_size: points k in a patch.
        drop_path: stochastic depth of the last block.
        near_origin: whether farthest point sampling may choose points within 0.0316 of the origin.
        variant: ``released`` takes the deviation in every K-norm over the whole batch, and gives the head the mean
            token of the first cloud for all clouds, as the released code does. Predictions then depend on the batch.

    Raises:
        UsageError: fewer than 4 groups.
    """

    name: ClassVar[str] = "mamba3d"
    layout: ClassVar[CheckpointLayout] = MAMBA3D
    head_layout: ClassVar[str] = "mlp3"
    token_names: tuple[str, ...] = ("cls_token", "cls_pos")
    stand_ins: ClassVar[Mapping[str, str]] = {"mlp_in": "attention_out", "mlp_out": "attention_out"}

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        groups: int = 128,
        group_size: int = 32,
        drop_path: float = 0.1,
        near_origin: Literal["skip", "keep"] = "skip",
        variant: Variant = "per_sample",
    ) -> None:
        super().__init__(variant)
        if groups < NEIGHBORS:
            raise UsageError(f"backbone.groups: {groups} is fewer than the {NEIGHBORS} that mamba3d pools over")
        self.width, self.depth = width, depth
        self.groups, self.group_size = groups, group_size
        self.drop_path, self.near_origin = drop_path, near_origin
        self.feature_width = 2 * width

        self.encoder = PatchEncoder(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, width))
        # GELU in its pre-training, SiLU ever after, with the same weights
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, width))
        self.blocks = MambaTrunk(width, depth, drop_path, variant)
        self.norm = nn.LayerNorm(width)
        for token in (self.cls_token, self.cls_pos):
            nn.init.trunc_normal_(token, std=0.02, a=-2.0, b=2.0)

    def settings(self) -> dict[str, Any]:
        names = ("width", "depth", "groups", "group_size", "drop_path", "near_origin", "variant")
        return {name: getattr(self, name) for name in names}

    def sites(self) -> list[Site]:
        return [
            *patch_encoder_sites(self.encoder),
            Site("pos_embed.0", "position", -1, None, self.pos_embed, "0"),
            Site("pos_embed.2", "position", -1, None, self.pos_embed, "2"),
            *mamba_sites(self.blocks.blocks, "blocks.blocks"),
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
        nearest = nearest_neighbors(centers, centers, NEIGHBORS).index
        with published(Geometry([Level(centers, slots)])):
            x, kept = self.blocks(x, position, nearest, tuple(layers))
        return Tokens(self.norm(x), centers, slots, kept, places=slice(1, None))

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """[class token, maximum + mean over the patches (+ fused)], (B, 2 C)."""
        patches = tokens.spatial(tokens.features)
        mean = patches.mean(dim=1)
        pooled = patches.amax(dim=1) + (mean[:1] if self.variant == "released" else mean)
        if fused is not None:
            pooled = pooled + fused
        return torch.cat([tokens.features[:, 0], pooled], dim=1)
