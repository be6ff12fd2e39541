"""Tiny backbones, one for every way in which tokens lie: an order per cloud, stages, packed scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.transformer import Block, block_sites
from geopeft_cli.contracts import (
    Backbone,
    CheckpointLayout,
    Geometry,
    Level,
    PackedLevel,
    Site,
    Tokens,
    published,
)
from geopeft_cli.geometry.grouping import group, take
from geopeft_cli.geometry.neighbors import nearest_neighbors

WIDTH = 16


class StandIn(Backbone):
    """What the three share: no checkpoint, a linear head, sizes that never change."""

    layout: ClassVar[CheckpointLayout] = CheckpointLayout("", ())
    head_layout: ClassVar[str] = "linear"
    width = feature_width = WIDTH

    def settings(self) -> dict[str, Any]:
        return {}

    def runs(self, level: Level) -> list[int]:
        """Lengths of the stretches of a sequence within which tokens may change places."""
        return [level.slots.shape[-1]]


class Mixer(nn.Module):
    """A gated running mean in place of a selective scan: the order of the tokens matters, as it does to Mamba."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        state, gate = self.in_proj(x).chunk(2, dim=-1)
        count = torch.arange(1, x.shape[1] + 1).unsqueeze(-1)
        y: Tensor = x + self.out_proj(state.cumsum(dim=1) / count * F.silu(gate))
        return y


class Serialized(StandIn):
    """As PointMamba: every center twice, along two curves of every cloud's own; then a token without a center."""

    name: ClassVar[str] = "serialized"
    groups, depth = 12, 4

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, WIDTH)
        self.position = nn.Linear(3, WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layers = nn.ModuleList(Mixer(WIDTH) for _ in range(self.depth))

    def settings(self) -> dict[str, Any]:
        return {"groups": self.groups}

    def sites(self) -> list[Site]:
        return [
            Site(f"layers.{index}.{name}", role, index, 0, mixer, name)
            for index, mixer in enumerate(self.layers)
            for name, role in (("in_proj", "attention_in"), ("out_proj", "attention_out"))
        ]

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        neighborhoods, centers = group(points, self.groups, 8)[:2]
        x = self.embed(neighborhoods).amax(dim=2) + self.position(centers)
        curves = torch.cat([centers[..., axis].argsort(dim=1) for axis in (0, 1)], dim=1)
        x = torch.cat([take(x, curves), self.cls_token.expand(x.shape[0], -1, -1)], dim=1)
        slots = torch.cat([curves, torch.full_like(curves[:, :1], -1)], dim=1)
        kept = {}
        with published(Geometry([Level(centers, slots)])):
            for index, layer in enumerate(self.layers):
                x = layer(x)
                if index in layers:
                    kept[index] = x
        return Tokens(x, centers, slots, kept, places=slice(0, -1))

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        mean = tokens.spatial(tokens.features).mean(dim=1)
        return mean if fused is None else mean + fused

    def runs(self, level: Level) -> list[int]:
        return [self.groups, self.groups, 1]


class Hierarchical(StandIn):
    """As Point-M2AE: three stages of fewer and wider tokens, without a class token."""

    name: ClassVar[str] = "hierarchical"
    groups, widths, depths = (24, 12, 6), (8, 12, WIDTH), (1, 2, 5)
    depth = sum(depths)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, self.widths[0])
        self.positions = nn.ModuleList(nn.Linear(3, width) for width in self.widths)
        self.merges = nn.ModuleList(nn.Linear(*pair) for pair in zip(self.widths, self.widths[1:], strict=False))
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, 2, 0.0) for _ in range(depth))
            for width, depth in zip(self.widths, self.depths, strict=True)
        )

    @property
    def fusion_blocks(self) -> range:
        return range(self.depth - self.depths[-1], self.depth)

    def sites(self) -> list[Site]:
        sites = []
        for level, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            first = sum(self.depths[:level])
            sites += [
                replace(site, block=first + site.block)
                for site in block_sites(stage, f"stages.{level}", level)
                if site.role != "attention"
            ]
        return sites

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        neighborhoods, centers = group(points, self.groups[0], 8)[:2]
        x = self.embed(neighborhoods).amax(dim=2)
        centers_of = [centers]
        for count in self.groups[1:]:
            centers_of.append(group(centers_of[-1], count, 1)[1])
        slots = [torch.arange(count) for count in self.groups]
        kept, index = {}, 0
        with published(Geometry([Level(*pair) for pair in zip(centers_of, slots, strict=True)])):
            for level, stage in enumerate(self.stages):
                assert isinstance(stage, nn.ModuleList)
                if level:
                    near = nearest_neighbors(centers_of[level - 1], centers_of[level], 4).index
                    around = x.unsqueeze(1).take_along_dim(near.unsqueeze(-1), 2)
                    x = self.merges[level - 1](around.amax(dim=2))
                x = x + self.positions[level](centers_of[level])
                for block in stage:
                    x = block(x)
                    if index in layers:
                        kept[index] = x
                    index += 1
        return Tokens(x, centers_of[-1], slots[-1], kept, places=slice(None))

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        maximum = tokens.spatial(tokens.features).amax(dim=1)
        return maximum if fused is None else maximum + fused


class SceneAttention(nn.Module):
    """Attention within every scene of packed tokens, (N, C), and a feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.fc1, self.fc2 = nn.Linear(width, 3 * width), nn.Linear(width, 40), nn.Linear(40, width)

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        scenes = [F.scaled_dot_product_attention(*scene.chunk(3, dim=-1)) for scene in self.qkv(x).split(sizes)]
        x = x + torch.cat(scenes)
        y: Tensor = x + self.fc2(F.gelu(self.fc1(x)))
        return y


class Packed(StandIn):
    """As PTv3: the voxels of all scenes one after the other, as many as each scene has; two stages."""

    name: ClassVar[str] = "packed"
    voxels, depth = (0.25, 0.5), 2

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleList(SceneAttention(WIDTH) for _ in range(self.depth))

    @property
    def fusion_blocks(self) -> range:
        return range(0)

    def sites(self) -> list[Site]:
        return [
            Site(f"blocks.{index}.{name}", role, index, index, block, name)
            for index, block in enumerate(self.blocks)
            for name, role in (("qkv", "attention_in"), ("fc1", "mlp_in"), ("fc2", "mlp_out"))
        ]

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        sizes = [points.shape[1]] * len(points)
        centers = points.flatten(0, 1)
        x, levels, parents = self.embed(centers), [], []
        for voxel in self.voxels:
            scene = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
            cells = torch.cat([scene.unsqueeze(1), (centers / voxel).floor().long()], dim=1)
            found, parent, count = cells.unique(dim=0, return_inverse=True, return_counts=True)
            sizes = torch.bincount(found[:, 0], minlength=len(sizes)).tolist()
            centers = torch.zeros(len(found), 3).index_add(0, parent, centers) / count.unsqueeze(1)
            levels.append(PackedLevel(centers, F.pad(torch.tensor(sizes).cumsum(0), (1, 0))))
            parents.append(parent)
        kept = {}
        with published(Geometry([*levels])):
            for index, (block, level, parent) in enumerate(zip(self.blocks, levels, parents, strict=True)):
                pooled = torch.full((len(level.centers), WIDTH), -torch.inf)
                x = block(pooled.scatter_reduce(0, parent.unsqueeze(1).expand_as(x), x, "amax"), level.sizes)
                if index in layers:
                    kept[index] = x
        return Tokens(x, levels[-1].centers, levels[-1].slots, kept, offsets=levels[-1].offsets)

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        assert tokens.offsets is not None
        scenes = tokens.features.split(tokens.offsets.diff().tolist())
        return torch.stack([scene.amax(dim=0) for scene in scenes])

    def runs(self, level: Level) -> list[int]:
        assert isinstance(level, PackedLevel)
        return level.sizes


LAYOUTS: tuple[type[StandIn], ...] = (Serialized, Hierarchical, Packed)
