"""A plain ViT over the patches of a cloud: what Point-MAE, Point-BERT, ACT and ReCon have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.patch_encoder import PatchEncoder
from geopeft_cli.backbones.transformer import (
    BLOCK_PLACES,
    Block,
    Places,
    Trunk,
    block_sites,
    patch_encoder_sites,
    whole_blocks,
)
from geopeft_cli.contracts import Backbone, Geometry, Level, Site, Tokens, published
from geopeft_cli.geometry.grouping import group

PRETRAINING_GROUPS = 64  # of clouds of 1024 points, by all networks of this kind


class PatchTransformer(Backbone):
    """The sequence [leading tokens, G patches in the order in which their centers were sampled] through a trunk.

    Args:
        width: channels C of a token.
        depth: number of blocks.
        heads: attention heads of a block.
        groups: number G of patches, as published 64 for 1024 points, 128 for 2048, 512 for 8192.
        group_size: points k in a patch.
        drop_path: stochastic depth of the last block.
        near_origin: whether farthest point sampling may choose points within 0.0316 of the origin.
        encoder_width: channels of a patch that ``reduce_dim`` takes to ``width``, by default ``patch_width``.
        dense: whether it is for a label a point; then ``leading_if_dense`` stand before the patches.

    Attributes:
        leading: what stands before the patches: NAME for the parameters ``NAME_token`` and ``NAME_pos``.
        leading_if_dense: the same in the segmentation model.
        patch_width: channels of a patch as published, ``None`` for those of a token and no ``reduce_dim``.
        block: class of a block.
        places: attention and dense layers of a block.
    """

    head_layout: ClassVar[str] = "mlp3"
    point_head: ClassVar[str | None] = "tokens"
    token_names: tuple[str, ...] = ("cls_token", "cls_pos")
    leading: tuple[str, ...] = ("cls",)
    leading_if_dense: ClassVar[tuple[str, ...]] = ()
    patch_width: ClassVar[int | None] = None
    block: ClassVar[type[nn.Module]] = Block
    places: ClassVar[Places] = BLOCK_PLACES

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        groups: int = 64,
        group_size: int = 32,
        drop_path: float = 0.1,
        near_origin: Literal["skip", "keep"] = "skip",
        encoder_width: int | None = None,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.dense = dense
        if dense:
            self.leading = self.leading_if_dense
            self.token_names = tuple(name for name in self.token_names if name.partition("_")[0] in self.leading)
        self.width, self.depth, self.heads = width, depth, heads
        self.groups, self.group_size = groups, group_size
        self.drop_path, self.near_origin = drop_path, near_origin
        self.encoder_width = encoder_width or self.patch_width
        self.feature_width = (len(self.leading) + 1) * width

        self.encoder = PatchEncoder(self.encoder_width or width)
        if self.encoder_width:
            self.reduce_dim = nn.Linear(self.encoder_width, width)
        names = [f"{name}_{kind}" for name in self.leading for kind in ("token", "pos")]
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, width)))
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = Trunk(width, depth, heads, drop_path, self.block)
        self.norm = nn.LayerNorm(width)
        for name in names:
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02, a=-2.0, b=2.0)

    def settings(self) -> dict[str, Any]:
        names = ["width", "depth", "heads", "groups", "group_size", "drop_path", "near_origin"]
        if self.encoder_width:
            names.append("encoder_width")
        if self.dense:
            names.append("dense")
        return {name: getattr(self, name) for name in names}

    def sites(self) -> list[Site]:
        return [
            *patch_encoder_sites(self.encoder),
            *([Site("reduce_dim", "patch_embedding", -1, None, self, "reduce_dim")] if self.encoder_width else []),
            Site("pos_embed.0", "position", -1, None, self.pos_embed, "0"),
            Site("pos_embed.2", "position", -1, None, self.pos_embed, "2"),
            *block_sites(self.blocks.blocks, "blocks.blocks", places=self.places),
        ]

    def block_sites(self) -> list[Site]:
        return whole_blocks(self.blocks.blocks, "blocks.blocks")

    def regroup(self) -> None:
        self.groups = min(self.groups, PRETRAINING_GROUPS)

    def patches(self, neighborhoods: Tensor) -> Tensor:
        """Points of every patch about its center (B, G, k, 3) -> what the trunk gets of it (B, G, C)."""
        tokens: Tensor = self.encoder(neighborhoods)
        return self.reduce_dim(tokens) if self.encoder_width else tokens

    def level(self, centers: Tensor, slots: Tensor) -> Level:
        """What the layers of the blocks see of the centers (B, G, 3) and slots (T,) of the whole sequence."""
        return Level(centers, slots)

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        """Tokens of the sequence [leading tokens, G patches].

        Args:
            points: (B, N, 3).
            layers: blocks whose raw outputs are wanted, 0-based.
        """
        patches, centers = self._embedded(points)
        return self._transformed(patches, centers, self.leading, points, tuple(layers))

    def describe(self, points: Tensor, geometry: Geometry | None = None) -> Tensor:
        """Maximum over the patches behind the norm, (B, C), without leading tokens that pre-training lacks.

        Centers are picked one after the other, so that those of fewer groups are the first ones of more.
        """
        shared = None if geometry is None else geometry.shared
        patches, centers = self._embedded(points) if shared is None else (t[:, : self.groups] for t in shared)
        leading = tuple(name for name in self.leading if f"{name}_token" not in self.layout.fresh)
        tokens = self._transformed(patches, centers, leading, points)
        return tokens.spatial(tokens.features).amax(dim=1)

    def _embedded(self, points: Tensor) -> tuple[Tensor, Tensor]:
        neighborhoods, centers = group(points, self.groups, self.group_size, self.near_origin)[:2]
        return self.patches(neighborhoods), centers

    def _transformed(
        self, patches: Tensor, centers: Tensor, leading: tuple[str, ...], points: Tensor, layers: tuple[int, ...] = ()
    ) -> Tokens:
        def before(kind: str) -> list[Tensor]:
            return [self.get_parameter(f"{name}_{kind}").expand(centers.shape[0], -1, -1) for name in leading]

        x = torch.cat([*before("token"), patches], dim=1)
        position = torch.cat([*before("pos"), self.pos_embed(centers)], dim=1)
        slots = torch.arange(-len(leading), self.groups, device=centers.device).clamp(min=-1)
        with published(Geometry([self.level(centers, slots)], points, (patches, centers))):
            x, kept = self.blocks(x, position, layers)
        return Tokens(self.norm(x), centers, slots, kept, places=slice(len(leading), None))

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """[leading tokens, maximum over the patches (+ fused)], (B, feature_width)."""
        maximum = tokens.spatial(tokens.features).amax(dim=1)
        if fused is not None:
            maximum = maximum + fused
        return torch.cat([tokens.features[:, : len(self.leading)].flatten(1), maximum], dim=1)
