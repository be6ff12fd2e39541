"""Point-M2AE and I2P-MAE: three stages of fewer and wider tokens, with attention among near ones.

Point-M2AE: Zhang et al., NeurIPS 2022, arXiv 2205.14401. I2P-MAE: Zhang et al., CVPR 2023, arXiv 2212.06785. Fine-tuned
for classification, both are the same network; they differ in their pre-training and in what the head reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.layouts import I2P_MAE, POINT_M2AE
from geopeft_cli.backbones.patch_encoder import PatchEncoder
from geopeft_cli.backbones.transformer import Attention, Block, Trunk, block_sites, patch_encoder_sites, whole_blocks
from geopeft_cli.contracts import (
    Backbone,
    CheckpointLayout,
    Geometry,
    Level,
    Site,
    Tokens,
    current_level,
    published,
)
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.grouping import Groups, group, take
from geopeft_cli.geometry.neighbors import squared_distances

Pooling = Literal["sum", "concat", "concat_rest"]
PRETRAINING_GROUP_SIZE = (16, 8, 8)


def near(centers: Tensor, radius: float) -> Tensor:
    """Whether two centers are nearer than ``radius``: (B, G, 3) -> bool (B, G, G)."""
    centers = centers.detach().float()
    return squared_distances(centers, centers.transpose(1, 2)).sqrt() < radius


class LocalAttention(Attention):
    """Attention of every token among those of its stage whose centers are nearer than ``radius``; 0 means all.

    The released code adds -1e5 to the other scores. With the token itself always among the near ones, that leaves
    nothing of them, as the mask here does in every number format.

    Args:
        level: index of the stage.
        radius: in the unit of the clouds.
    """

    def __init__(self, width: int, heads: int, level: int, radius: float) -> None:
        super().__init__(width, heads)
        self.level, self.radius = level, radius

    def mask(self) -> Tensor | None:
        level = current_level(self.level, "attention within a radius")
        return level.memo(("attended", self.radius), lambda: self._mask(level))

    def _mask(self, level: Level) -> Tensor | None:
        if self.radius == 0:
            return None
        attended = level.memo(("near", self.radius), lambda: near(level.centers, self.radius))
        if level.slots.shape[-1] > attended.shape[-1]:  # tokens without a center see all and are seen by all
            attended = F.pad(attended, (0, 1, 0, 1), value=True)
            attended = attended[:, level.slots][:, :, level.slots]
        return attended.unsqueeze(1)


class LocalBlock(Block):
    """A block with :class:`LocalAttention`."""

    def __init__(self, width: int, heads: int, drop_path: float, level: int, radius: float) -> None:
        super().__init__(width, heads, drop_path)
        self.attn = LocalAttention(width, heads, level, radius)


class HierarchicalEncoder(nn.Module):
    """The stages, under the official name ``h_encoder``.

    The tokens of the first are patches of the cloud. A token of a later one is made of the tokens, as they leave the
    stage before, whose centers are nearest to its own.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: int,
        radius: Sequence[float],
        drop_path: float,
        dense: bool,
    ) -> None:
        super().__init__()
        self.token_embed = nn.ModuleList([PatchEncoder(widths[0])])
        self.token_embed.extend(PatchEncoder(wide, narrow, (narrow, narrow), wide) for narrow, wide in pairwise(widths))
        self.encoder_pos_embeds = nn.ModuleList(
            nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width)) for width in widths
        )
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        last = [end - 1 for end in accumulate(depths)]
        self.encoder_blocks = nn.ModuleList(
            Trunk(width, depth, heads, rates[end], partial(LocalBlock, level=level, radius=r), rates[end - depth + 1])
            for level, (width, depth, end, r) in enumerate(zip(widths, depths, last, radius, strict=True))
        )
        if dense:
            self.encoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)


class PointM2AE(Backbone):
    """The hierarchical encoder of Point-M2AE, as fine-tuned for classification. It has no class token.

    Args:
        widths: channels of a token, by stage.
        depths: number of blocks, by stage.
        heads: attention heads of every block.
        groups: number of tokens, by stage.
        group_size: points in a patch of the first stage; in later ones, tokens of the stage before in a token.
        radius: within which tokens attend to each other, by stage, in the unit of the clouds; 0 for everywhere.
        pooling: what the head reads: ``sum`` (ModelNet40), mean + maximum; ``concat`` (ScanObjectNN, I2P-MAE), [mean,
            maximum]; ``concat_rest`` (ScanObjectNN, Point-M2AE), the same with a maximum over all tokens but the
            first. By default the network's own on ScanObjectNN.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first of all stages.
        near_origin: whether farthest point sampling may choose points within 0.0316 of the origin.
        dense: whether it is for a label a point; then every stage has the norm of the pre-training behind it, in place
            of the fresh one behind the last.

    Raises:
        UsageError: the settings are not all for the same number of stages.
    """

    name: ClassVar[str] = "point_m2ae"
    layout: ClassVar[CheckpointLayout] = POINT_M2AE
    head_layout: ClassVar[str] = "mlp3"
    point_head: ClassVar[str | None] = "stages"
    token_names: tuple[str, ...] = ("norm.weight", "norm.bias")
    own_pooling: ClassVar[Pooling] = "concat_rest"

    def __init__(
        self,
        widths: Sequence[int] = (96, 192, 384),
        depths: Sequence[int] = (5, 5, 5),
        heads: int = 6,
        groups: Sequence[int] = (512, 256, 64),
        group_size: Sequence[int] = (32, 16, 16),
        radius: Sequence[float] = (0.32, 0.64, 1.28),
        pooling: Pooling | None = None,
        drop_path: float = 0.1,
        near_origin: Literal["skip", "keep"] = "skip",
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.dense = dense
        for name, values in (("groups", groups), ("group_size", group_size), ("radius", radius)):
            if len(values) != len(widths):
                raise UsageError(f"backbone.{name}: {len(values)} values for the {len(widths)} stages of {self.name}")
        self.widths, self.depths, self.heads = tuple(widths), tuple(depths), heads
        self.groups, self.group_size, self.radius = tuple(groups), tuple(group_size), tuple(radius)
        self.pooling: Pooling = pooling or self.own_pooling
        self.drop_path, self.near_origin = drop_path, near_origin
        self.width, self.depth = self.widths[-1], sum(self.depths)
        self.feature_width = self.width if self.pooling == "sum" else 2 * self.width

        self.h_encoder = HierarchicalEncoder(self.widths, self.depths, heads, self.radius, drop_path, dense)
        if dense:
            self.token_names = ()
        else:
            self.norm = nn.LayerNorm(self.width)

    def settings(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("widths", "depths", "groups", "group_size", "radius")}
        names = ("heads", "pooling", "drop_path", "near_origin", *(["dense"] if self.dense else []))
        return lists | {name: getattr(self, name) for name in names}

    @property
    def fusion_blocks(self) -> range:
        return range(self.depth - self.depths[-1], self.depth)

    @property
    def head_norms(self) -> tuple[str, ...]:
        if not self.dense:
            return ("norm",)
        return tuple(f"h_encoder.encoder_norms.{stage}" for stage in range(len(self.widths)))

    @property
    def last_norm(self) -> nn.Module:
        """The norm behind the last stage."""
        return self.get_submodule(self.head_norms[-1])

    def sites(self) -> list[Site]:
        sites, first = [], 0
        encoder = self.h_encoder
        for level, depth in enumerate(self.depths):
            embed, position = encoder.token_embed[level], encoder.encoder_pos_embeds[level]
            trunk = encoder.encoder_blocks[level]
            assert isinstance(trunk, Trunk)
            sites += patch_encoder_sites(embed, f"h_encoder.token_embed.{level}")
            name = f"h_encoder.encoder_pos_embeds.{level}"
            sites += [Site(f"{name}.{i}", "position", -1, None, position, i) for i in ("0", "2")]
            blocks = block_sites(trunk.blocks, f"h_encoder.encoder_blocks.{level}.blocks", level)
            sites += [replace(site, block=first + site.block) for site in blocks]
            first += depth
        return sites

    def block_sites(self) -> list[Site]:
        sites: list[Site] = []
        for level, trunk in enumerate(self.h_encoder.encoder_blocks):
            assert isinstance(trunk, Trunk)
            sites += whole_blocks(trunk.blocks, f"h_encoder.encoder_blocks.{level}.blocks", level, len(sites))
        return sites

    def regroup(self) -> None:
        self.group_size = tuple(map(min, self.group_size, PRETRAINING_GROUP_SIZE))

    def describe(self, points: Tensor, geometry: Geometry | None = None) -> Tensor:
        """Mean + maximum over the last tokens behind their norm, (B, C), as in pre-training.

        There attention is among all tokens of a stage that a token of the next one is made of; the others are left
        out. Groups of fewer points are the first points of groups of more.
        """
        shared = self.grouped(points) if geometry is None else geometry.shared
        stages = [self._narrowed(stage, size) for stage, size in zip(shared, self.group_size, strict=True)]
        x = points
        for level, (stage, kept) in enumerate(zip(stages, self._referred_to(stages), strict=True)):
            x = self.embedded(level, stage, x)
            own = Level(stage.centers, torch.arange(x.shape[1], device=x.device))
            own.memo(("attended", self.radius[level]), lambda kept=kept: kept[:, None, None])  # type: ignore[misc]
            position = self.h_encoder.encoder_pos_embeds[level](stage.centers)
            with published(Geometry([own] * (level + 1))):
                x = self.h_encoder.encoder_blocks[level](x, position)[0]
        tokens: Tensor = self.last_norm(x)
        return tokens.mean(dim=1) + tokens.amax(dim=1)

    @staticmethod
    def _narrowed(stage: Groups, size: int) -> Groups:
        return stage._replace(
            neighborhoods=stage.neighborhoods[:, :, :size], neighbor_index=stage.neighbor_index[:, :, :size]
        )

    @staticmethod
    def _referred_to(stages: Sequence[Groups]) -> list[Tensor]:
        """bool (B, G) by stage: the tokens of which some kept token of the next stage is made, all of the last."""
        last = stages[-1].center_index
        kept = [torch.ones_like(last, dtype=torch.bool)]
        for before, stage in zip(stages[-2::-1], stages[:0:-1], strict=True):
            weight = kept[0].unsqueeze(-1).expand_as(stage.neighbor_index).flatten(1).float()
            seen = weight.new_zeros(before.center_index.shape)
            kept.insert(0, seen.scatter_add(1, stage.neighbor_index.flatten(1), weight) > 0)
        return kept

    def grouped(self, points: Tensor) -> list[Groups]:
        """The groups of every stage; those of a later one are of the centers of the stage before.

        Args:
            points: (B, N, 3).
        """
        found: list[Groups] = []
        for count, size in zip(self.groups, self.group_size, strict=True):
            found.append(group(found[-1].centers if found else points, count, size, self.near_origin))
        return found

    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        """Tokens of the last stage, in the order in which their centers were sampled.

        Args:
            points: (B, N, 3).
            layers: blocks whose raw outputs are wanted, 0-based, counted through all stages.
        """
        stages = self.grouped(points)
        slots = [torch.arange(count, device=points.device) for count in self.groups]
        levels = [Level(stage.centers, slot) for stage, slot in zip(stages, slots, strict=True)]
        kept: dict[int, Tensor] = {}
        with published(Geometry(levels, points, stages)):
            x, first = points, 0
            for level, (stage, depth) in enumerate(zip(stages, self.depths, strict=True)):
                x = self.embedded(level, stage, x)
                wanted = tuple(index - first for index in layers if first <= index < first + depth)
                position = self.h_encoder.encoder_pos_embeds[level](stage.centers)
                x, outputs = self.h_encoder.encoder_blocks[level](x, position, wanted)
                kept |= {first + index: output for index, output in outputs.items()}
                first += depth
        features = self.last_norm(x)
        centers = tuple(stage.centers for stage in stages)
        return Tokens(features, centers[-1], slots[-1], kept, places=slice(None), stages=centers)

    def embedded(self, level: int, stage: Groups, x: Tensor) -> Tensor:
        """What the blocks of a stage start from, (B, G, C); ``x`` is the output (B, N, C) of the stage before."""
        around = stage.neighborhoods
        if level > 0:
            index = stage.neighbor_index
            around = take(x, index.flatten(1)).unflatten(1, index.shape[1:])
        tokens: Tensor = self.h_encoder.token_embed[level](around)
        return tokens

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """Mean and maximum (+ fused) over the tokens, (B, feature_width), see ``pooling``."""
        mean = tokens.features.mean(dim=1)
        maximum = tokens.features[:, int(self.pooling == "concat_rest") :].amax(dim=1)
        if fused is not None:
            maximum = maximum + fused
        return mean + maximum if self.pooling == "sum" else torch.cat([mean, maximum], dim=1)


class I2PMAE(PointM2AE):
    """I2P-MAE: the network of Point-M2AE, with a head that reads the maximum over all tokens on ScanObjectNN too."""

    name: ClassVar[str] = "i2p_mae"
    layout: ClassVar[CheckpointLayout] = I2P_MAE
    point_head: ClassVar[str | None] = None
    own_pooling: ClassVar[Pooling] = "concat"
