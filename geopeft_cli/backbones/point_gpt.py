"""PointGPT: a causal transformer over patches in a greedy order (Chen et al., NeurIPS 2023, arXiv 2305.11487)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.gpt import GPT_PLACES, Carried, Extractor, Generator, position_encoding
from geopeft_cli.backbones.layouts import POINT_GPT
from geopeft_cli.backbones.patch_encoder import LARGE, SMALL, PatchEncoder
from geopeft_cli.backbones.patch_transformer import PRETRAINING_GROUPS
from geopeft_cli.backbones.transformer import block_sites, patch_encoder_sites, whole_blocks
from geopeft_cli.contracts import (
    Backbone,
    CheckpointLayout,
    Geometry,
    Level,
    Site,
    Tokens,
    published,
)
from geopeft_cli.geometry.chamfer import chamfer_loss
from geopeft_cli.geometry.grouping import group, take
from geopeft_cli.geometry.ordering import greedy_order
from geopeft_cli.objective import add_to_training_loss

GENERATOR_DEPTH = 4


class PointGPT(Backbone):
    """The classifier of PointGPT-S (width 384, 12 layers), -B (768, 12) or -L (1024, 24).

    In training a frozen or training generator predicts the points of every patch, and its error is added to the
    loss of the task. The segmentation model has neither the generator nor the classifier's norm, but a norm of its own.

    Args:
        width: channels C of a token.
        depth: number of layers.
        heads: attention heads of a layer.
        groups: number G of patches, 64 for 1024 points, 128 for 2048, 512 for 8192.
        group_size: points k in a patch.
        near_origin: whether farthest point sampling may choose points within 0.0316 of the origin.
        encoder_width: channels of the patch encoder's first layer, 128 in S, 256 in B and L, whose encoder is deeper.
        generator_channels: three for every point of a patch that the generator predicts.
        reconstruction: weight of the reconstruction in the training loss; 0 builds no generator.
        drop_path: stochastic depth of the last layer if ``dense``; the official classifier ignores its setting.
        dense: whether it is for a label a point.
    """

    name: ClassVar[str] = "point_gpt"
    layout: ClassVar[CheckpointLayout] = POINT_GPT
    head_layout: ClassVar[str] = "mlp3"
    point_head: ClassVar[str | None] = "tokens"
    token_names: tuple[str, ...] = POINT_GPT.fresh

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        groups: int = 64,
        group_size: int = 32,
        near_origin: Literal["skip", "keep"] = "skip",
        encoder_width: int = SMALL[0],
        generator_channels: int = 96,
        reconstruction: float = 3.0,
        drop_path: float = 0.1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.dense, self.drop_path = dense, drop_path
        if dense:
            reconstruction = 0.0
            self.token_names = tuple(name for name in self.token_names if not name.startswith("blocks.cls_norm."))
        self.width, self.depth, self.heads = width, depth, heads
        self.groups, self.group_size, self.near_origin = groups, group_size, near_origin
        self.encoder_width, self.generator_channels = encoder_width, generator_channels
        self.reconstruction = reconstruction
        self.feature_width = 2 * width

        self.encoder = PatchEncoder(width, hidden=LARGE if encoder_width == LARGE[0] else SMALL)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, width))
        self.sos_pos = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = Extractor(width, depth, heads, generator_channels, dense, drop_path)
        if reconstruction:
            self.generator_blocks = Generator(width, GENERATOR_DEPTH, heads, generator_channels)
        self.norm = nn.LayerNorm(width) if dense else Carried(weight=(width,), bias=(width,))
        for token in (self.cls_token, self.cls_pos, self.sos_pos):
            nn.init.trunc_normal_(token, std=0.02, a=-2.0, b=2.0)

    def settings(self) -> dict[str, Any]:
        names = ("width", "depth", "heads", "groups", "group_size", "near_origin", "encoder_width")
        more = ("drop_path", "dense") if self.dense else ("reconstruction",)
        return {name: getattr(self, name) for name in (*names, "generator_channels", *more)}

    @property
    def head_norms(self) -> tuple[str, ...]:
        return ("norm",) if self.dense else ("blocks.cls_norm",)

    def sites(self) -> list[Site]:
        """Those of the trunk and of the patch encoder, and the attentions of the generator."""
        return [
            *patch_encoder_sites(self.encoder),
            *block_sites(self.blocks.layers, "blocks.layers", places=GPT_PLACES),
            *(self.generator_blocks.sites("generator_blocks") if self.reconstruction else ()),
        ]

    def block_sites(self) -> list[Site]:
        return whole_blocks(self.blocks.layers, "blocks.layers")

    def regroup(self) -> None:
        self.groups = min(self.groups, PRETRAINING_GROUPS)

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        """Sequence [start token, class token, G patches in greedy order].

        Args:
            points: (B, N, 3).
            layers: layers whose raw outputs are wanted, 0-based.
        """
        neighborhoods, centers = self.patches(points)
        batch = points.shape[0]
        start = torch.cat([self.blocks.sos.view(1, 1, -1), self.cls_token], dim=1).expand(batch, -1, -1)
        # crossed in the release, where the weights were trained: the start token gets the class token's position
        crossed = torch.cat([self.cls_pos, self.sos_pos], dim=1).expand(batch, -1, -1)
        x = torch.cat([start, self.encoder(neighborhoods)], dim=1)
        position = torch.cat([crossed, position_encoding(centers, self.width)], dim=1)
        slots = torch.arange(-2, self.groups, device=points.device).clamp(min=-1)
        with published(Geometry([Level(centers, slots)], points)):
            x, kept = self.blocks(x, position, tuple(layers))
        x = self.blocks.ln_f(x)
        if self.training and self.reconstruction:
            add_to_training_loss(lambda: self.reconstruction * self.reconstruction_loss(x, neighborhoods, centers))
        normalized = x if self.dense else self.blocks.cls_norm(x)
        return Tokens(normalized, centers, slots, kept, places=slice(2, None))

    def patches(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Neighborhoods (B, G, k, 3), relative to their centers, and centers (B, G, 3), both in greedy order."""
        neighborhoods, centers = group(points, self.groups, self.group_size, self.near_origin)[:2]
        order = greedy_order(centers)
        return take(neighborhoods.flatten(2), order).unflatten(2, (-1, 3)), take(centers, order)

    def reconstruction_loss(self, features: Tensor, neighborhoods: Tensor, centers: Tensor) -> Tensor:
        """Chamfer distance of the generated patches from the true ones, a scalar.

        Args:
            features: (B, G + 2, C), the sequence after ``blocks.ln_f``.
            neighborhoods: (B, G, k, 3), relative to their centers.
            centers: (B, G, 3).
        """
        generated = self.generator_blocks.generate(features, centers)
        return chamfer_loss(generated.flatten(0, 1), (neighborhoods + centers.unsqueeze(2)).flatten(0, 1))

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """[class token, maximum over the patches (+ fused)], (B, 2 C)."""
        maximum = tokens.spatial(tokens.features).amax(dim=1)
        if fused is not None:
            maximum = maximum + fused
        return torch.cat([tokens.features[:, 1], maximum], dim=1)
