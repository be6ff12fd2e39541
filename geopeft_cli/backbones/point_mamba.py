"""PointMamba: a scan along two Hilbert curves through the patches (Liang et al., NeurIPS 2024, arXiv 2402.10739)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.coupled import CoupledBackbone, Variant
from geopeft_cli.backbones.layouts import POINT_MAMBA
from geopeft_cli.backbones.mixer import Mixer, mixer_sites
from geopeft_cli.backbones.patch_encoder import PatchEncoder
from geopeft_cli.backbones.transformer import DropPath, patch_encoder_sites
from geopeft_cli.contracts import CheckpointLayout, Geometry, Level, Site, Tokens, published
from geopeft_cli.geometry.grouping import group, take
from geopeft_cli.geometry.ordering import hilbert_order

CURVES = ((0, 1, 2), (1, 0, 2))  # the order in which each curve takes the axes


class Block(nn.Module):
    """x + mixer(norm x), the branch under stochastic depth."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = Mixer(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mixer(self.norm(x)))  # type: ignore[no-any-return]


class MixerTrunk(nn.Module):
    """A stack of blocks under the name ``blocks.layers``, and the final norm, which the caller applies.

    Args:
        drop_path: rate of the last block; it grows linearly from 0 at the first.
        dropout: of the whole stream after every block.
    """

    def __init__(self, width: int, depth: int, drop_path: float, dropout: float) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.layers = nn.ModuleList(Block(width, rate) for rate in rates)
        self.norm_f = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, T, C) -> the last output, before the final norm, and the outputs of ``layers``."""
        kept = {}
        for index, block in enumerate(self.layers):
            x = self.dropout(block(x))
            if index in layers:
                kept[index] = x
        return x, kept


class PointMamba(CoupledBackbone):
    """The classifier of PointMamba, without a class token, as all its published settings have it.

    Args:
        width: channels C of a token.
        depth: number of blocks.
        groups: number G of patches, 64 for 1024 points, 128 for 2048.
        group_size: points k in a patch.
        drop_path: stochastic depth of the last block.
        near_origin: whether farthest point sampling may choose points within 0.0316 of the origin.
        dropout: of the tokens after every block.
        variant: ``released`` gives both curves the depth that the widest cloud of the batch needs, as the released
            code does. Another depth may turn a curve, so that predictions then depend on the batch.
    """

    name: ClassVar[str] = "point_mamba"
    layout: ClassVar[CheckpointLayout] = POINT_MAMBA
    head_layout: ClassVar[str] = "mlp3"
    stand_ins: ClassVar[Mapping[str, str]] = {"mlp_in": "attention_out", "mlp_out": "attention_out"}

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        groups: int = 64,
        group_size: int = 32,
        drop_path: float = 0.1,
        near_origin: Literal["skip", "keep"] = "skip",
        dropout: float = 0.0,
        variant: Variant = "per_sample",
    ) -> None:
        super().__init__(variant)
        self.width = self.feature_width = width
        self.depth, self.groups, self.group_size = depth, groups, group_size
        self.drop_path, self.near_origin, self.dropout = drop_path, near_origin, dropout

        self.encoder = PatchEncoder(width)
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = MixerTrunk(width, depth, drop_path, dropout)
        self.OrderScale_gamma_1, self.OrderScale_gamma_2 = (nn.Parameter(torch.ones(width)) for _ in CURVES)
        self.OrderScale_beta_1, self.OrderScale_beta_2 = (nn.Parameter(torch.zeros(width)) for _ in CURVES)

    def settings(self) -> dict[str, Any]:
        names = ("width", "depth", "groups", "group_size", "drop_path", "near_origin", "dropout", "variant")
        return {name: getattr(self, name) for name in names}

    def sites(self) -> list[Site]:
        blocks = enumerate(self.blocks.layers)
        return [
            *patch_encoder_sites(self.encoder),
            Site("pos_embed.0", "position", -1, None, self.pos_embed, "0"),
            Site("pos_embed.2", "position", -1, None, self.pos_embed, "2"),
            *(site for index, block in blocks for site in mixer_sites(block, f"blocks.layers.{index}", index)),
        ]

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        """Sequence [G patches along the first curve, the same G along the second], an order for every cloud.

        Args:
            points: (B, N, 3).
            layers: blocks whose raw outputs are wanted, 0-based.
        """
        neighborhoods, centers = group(points, self.groups, self.group_size, self.near_origin)[:2]
        slots = self.orders(centers).flatten(1)
        scale = torch.stack([self.OrderScale_gamma_1, self.OrderScale_gamma_2]).repeat_interleave(self.groups, dim=0)
        shift = torch.stack([self.OrderScale_beta_1, self.OrderScale_beta_2]).repeat_interleave(self.groups, dim=0)
        x = take(self.encoder(neighborhoods), slots) * scale + shift + take(self.pos_embed(centers), slots)
        with published(Geometry([Level(centers, slots)])):
            x, kept = self.blocks(x, tuple(layers))
        return Tokens(self.blocks.norm_f(x), centers, slots, kept, places=slice(None))

    def orders(self, centers: Tensor) -> Tensor:
        """The order of the patches along each curve, int64 (B, 2, G), for centers (B, G, 3)."""
        return hilbert_order(centers, CURVES, of_batch=self.variant == "released")

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """Mean over all tokens (+ fused), (B, C)."""
        mean = tokens.features.mean(dim=1)
        return mean if fused is None else mean + fused
