"""GEM, the Geometry Encoding Mixer, re-implemented from the paper (NeurIPS 2025, arXiv 2505.22444).

Beside the frozen position encoding of a block stands a spatial adapter, a sparse convolution of low rank; beside its
attention a context adapter, latents that read the whole scene and that every voxel reads. The latents are carried from
block to block. Where the paper leaves a choice, it is ours: scale of the softmax, what is read (norm and latents),
initial values, and that K = V, which its parameter counts need. The paper is on scenes; how it is done among the
tokens of clouds is ours too, see :mod:`geopeft_cli.methods.gem_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.contracts import (
    Backbone,
    Branches,
    Level,
    Method,
    PackedLevel,
    SceneBackbone,
    Site,
    TransformerBlock,
    Wrapper,
    current_level,
)
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.precision import full_precision
from geopeft_cli.geometry.sparse_convolution import SubmanifoldConvolution
from geopeft_cli.methods.dense import dense_layer, sizes
from geopeft_cli.methods.gem_tokens import GEMTokenBlock, TokenConvolution, first_with_center

Share = Literal["global", "stage", "none"]
Activation = Literal["relu", "gelu"]
Convolution = SubmanifoldConvolution | TokenConvolution
_STD = 0.02  # of every initial value that is not zero


class GEM(Method):
    """Spatial and context adapters in every block of an encoder; step-0 identity, not mergeable.

    Args:
        rank: r of both adapters.
        latents: how many tokens read a scene.
        kernel: voxels along an edge of the spatial adapter's convolution, odd.
        spatial: whether there are spatial adapters.
        context: whether there are context adapters.
        share: the latents start anew never (``global``), with every stage, or with every block (``none``).
        tie_kv: whether keys and values are one projection.
        act: behind the convolution.
        scale: of the context adapter's scores; by default 1 / sqrt(rank).
        context_bias: whether the context adapter's last layer has a bias.
        stages: which to adapt; by default all.
        voxel: edge of a voxel around the centers of tokens, on networks that read clouds; by default 3 / sqrt(G) of G
            centers.
    """

    name: ClassVar[str] = "gem"

    def __init__(
        self,
        rank: int = 32,
        latents: int = 4,
        kernel: int = 3,
        spatial: bool = True,
        context: bool = True,
        share: Share = "global",
        tie_kv: bool = True,
        act: Activation = "relu",
        scale: float | None = None,
        context_bias: bool = False,
        stages: Sequence[int] | None = None,
        voxel: float | None = None,
    ) -> None:
        if not (spatial or context):
            raise UsageError("method: GEM without spatial and without context adapters adapts nothing")
        self.rank, self.latents, self.kernel, self.spatial, self.context = rank, latents, kernel, spatial, context
        self.share: Share = share
        self.act: Activation = act
        self.tie_kv, self.scale, self.context_bias = tie_kv, scale, context_bias
        self.stages = None if stages is None else list(stages)
        self.voxel = voxel

    def settings(self) -> dict[str, Any]:
        return dict(vars(self))

    def attach(self, backbone: Backbone) -> None:
        """See :class:`geopeft_cli.contracts.Method`.

        Raises:
            UsageError: the backbone has no transformer blocks, or no such stages, or ``voxel`` is not for it.
        """
        sites = self._blocks(backbone)
        levels = sorted({site.level for site in sites if site.level is not None})
        shared = Latents(self.latents, self.rank, levels if self.share == "stage" else None)
        if self.context and self.share != "none":
            backbone.gem = shared
        widths = {site.block: sizes(dense_layer(site))[1] for site in backbone.sites() if site.role == "attention_out"}
        places: dict[int, int] = {}
        for site in sites:
            block, level, parts = site.module, site.level or 0, nn.ModuleDict()
            if self.spatial:
                convolution = self._convolution(block, level)
                parts["spatial"] = SpatialAdapter(widths[site.block], self.rank, convolution, self.act)
            if self.context:
                group = {"global": -1, "stage": level, "none": len(levels) + site.block}[self.share]
                places[group] = places.get(group, -1) + 1
                parts["context"] = self._context_adapter(widths[site.block], level, group, places[group], shared)
            if isinstance(block, TransformerBlock):
                site.replace(GEMTokenBlock(block, parts, level))
            else:
                site.replace(GEMBlock(block, parts))

    def _convolution(self, block: nn.Module, level: int) -> Convolution:
        if isinstance(block, TransformerBlock):
            return TokenConvolution(self.rank, self.kernel, level, self.voxel)
        return SubmanifoldConvolution(self.rank, self.rank, self.kernel, level, bias=False)

    def _blocks(self, backbone: Backbone) -> list[Site]:
        if isinstance(backbone, SceneBackbone):
            if self.voxel is not None:
                raise UsageError(
                    f"method.voxel: {backbone.name} reads scenes, whose voxels are those of the network",
                    "Leave it out.",
                )
            blocks = backbone.encoder_blocks
            every = [site for site in backbone.sites() if site.role == "block" and site.block in blocks]
        else:
            every = backbone.block_sites()
        if not every:
            raise UsageError(
                f"method.name: gem is for transformer blocks over scenes or over the patches of a cloud, "
                f"and {backbone.name} has none",
                "Use another method or another backbone.",
            )
        known = {site.level for site in every}
        unknown = [stage for stage in self.stages or () if stage not in known]
        if unknown:
            raise UsageError(f"method.stages: {backbone.name} has no stage {unknown[0]}")
        return [site for site in every if self.stages is None or site.level in self.stages]

    def _context_adapter(self, width: int, level: int, group: int, place: int, shared: Latents) -> ContextAdapter:
        return ContextAdapter(
            width,
            self.rank,
            level=level,
            group=group,
            place=place,
            own_latents=self.latents if self.share == "none" else 0,
            start=shared.start,
            tie_kv=self.tie_kv,
            scale=self.rank**-0.5 if self.scale is None else self.scale,
            bias=self.context_bias,
        )


class Latents(nn.Module):
    """What the latents of a forward pass start from: ``latents`` (m, r), or one for each of some stages."""

    def __init__(self, count: int, rank: int, stages: Sequence[int] | None) -> None:
        super().__init__()
        self.latents: nn.Parameter | nn.ParameterDict
        if stages is None:
            self.latents = _drawn(count, rank)
        else:
            self.latents = nn.ParameterDict({str(stage): _drawn(count, rank) for stage in stages})

    def start(self, level: int) -> Tensor:
        """(m, r), where a stage begins."""
        return self.latents[str(level)] if isinstance(self.latents, nn.ParameterDict) else self.latents


class GEMBlock(Wrapper):
    """A block with the branches that ``gem`` holds: ``spatial``, ``context`` or both."""

    unfoldable: ClassVar[str] = "its branches are a convolution and an attention"

    def __init__(self, base: nn.Module, gem: nn.ModuleDict) -> None:
        super().__init__(base)
        self.gem = gem

    def forward(self, x: Tensor, stale: Tensor | None = None, branches: Branches | None = None) -> Tensor:
        own: dict[str, nn.Module] = dict(self.gem.items())
        both = Branches(
            _sum(own.get("spatial"), branches and branches.position),
            _sum(own.get("context"), branches and branches.attention),
        )
        return self.base(x, stale, both)  # type: ignore[no-any-return]


class SpatialAdapter(nn.Module):
    """up(act(convolution(down x))) over the voxels of a stage: (N, C) -> (N, C), or (B, G, C); 0 at the start.

    Args:
        width: C.
        rank: r.
        convolution: from (N, r) to (N, r), or (B, G, r), with a ``weight``.
        act: behind the convolution.
    """

    def __init__(self, width: int, rank: int, convolution: Convolution, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.down = nn.Linear(width, rank, bias=False)
        self.conv = convolution
        self.up = nn.Linear(rank, width, bias=False)
        for layer in (self.down, self.conv):
            nn.init.trunc_normal_(layer.weight, std=_STD)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(self.down(x))
        return self.up(F.relu(hidden) if self.act == "relu" else F.gelu(hidden))  # type: ignore[no-any-return]


class ContextAdapter(nn.Module):
    """Latents that read all voxels of their scene, and are read by them: (N, C) -> (N, C), 0 at the start.

    c = softmax(L K^T s) V over the voxels of a scene; y = softmax(Q c^T s) c over the latents; then L <- L + c. All of
    it in float32. A cloud is such a scene, (B, T, C) -> (B, T, C); its tokens without a center read and are not read.
    What a block leaves to the next is kept with the geometry of the forward pass, by the place of the block, so that a
    block that is run twice in one pass reads the same latents again.

    Args:
        width: C.
        rank: r.
        level: index of the stage.
        group: which latents are carried: blocks of one group carry theirs on.
        place: of the block in its group; the first starts the latents.
        own_latents: how many latents are the block's own; 0 for those of ``start``.
        start: from a level to the shared latents (m, r).
        tie_kv: whether K = V.
        scale: s.
        bias: whether the last layer has one.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        *,
        level: int,
        group: int,
        place: int,
        own_latents: int,
        start: Callable[[int], Tensor],
        tie_kv: bool,
        scale: float,
        bias: bool,
    ) -> None:
        super().__init__()
        self.level, self.group, self.place, self.scale, self.tie_kv = level, group, place, scale, tie_kv
        self.start = start
        if own_latents:
            self.latents = _drawn(own_latents, rank)
        for name in ("q", "kv") if tie_kv else ("q", "k", "v"):
            layer = nn.Linear(width, rank, bias=False)
            nn.init.trunc_normal_(layer.weight, std=_STD)
            self.add_module(name, layer)
        self.up = nn.Linear(rank, width, bias=bias)
        nn.init.zeros_(self.up.weight)
        if bias:
            nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        level = current_level(self.level, "a context adapter")
        carried = carried_latents(current_level(0, "a context adapter"), self.group)
        scenes = len(level.sizes) if isinstance(level, PackedLevel) else h.shape[0]
        q, k, v = (part.float() for part in self._projected(h))
        with full_precision(h.device):
            before = carried[self.place - 1] if self.place else self._first().float().expand(scenes, -1, -1)
            if isinstance(level, PackedLevel):
                parts = zip(before, k.split(level.sizes), v.split(level.sizes), strict=True)
                context = torch.stack([self._attended(*part) for part in parts])
                rows = zip(q.split(level.sizes), context, strict=True)
                read = torch.cat([self._attended(row, one, one) for row, one in rows])
            else:
                first = first_with_center(h, level)
                context = self._attended(before, k[:, first:], v[:, first:])
                read = self._attended(q, context, context)
            carried[self.place] = before + context
        return self.up(read.to(h.dtype))  # type: ignore[no-any-return]

    def _projected(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (N, r)."""
        names = ("q", "kv", "kv") if self.tie_kv else ("q", "k", "v")
        found = {name: self.get_submodule(name)(h) for name in set(names)}
        q, k, v = (found[name] for name in names)
        return q, k, v

    def _first(self) -> Tensor:
        return self.latents if "latents" in self._parameters else self.start(self.level)

    def _attended(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return (queries @ keys.mT * self.scale).softmax(dim=-1) @ values


def carried_latents(first: Level, group: int) -> dict[int, Tensor]:
    """The latents (scenes, m, r) that blocks left in this forward pass, by place; ``first`` is its first level."""
    latents: dict[int, Tensor] = first.memo(("latents", group), dict)
    return latents


def _drawn(count: int, rank: int) -> nn.Parameter:
    return nn.Parameter(_STD * torch.randn(count, rank))


def _sum(
    own: Callable[[Tensor], Tensor] | None, other: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor] | None:
    """Both branches of a place as one."""
    if own is None or other is None:
        return own or other
    return lambda x: own(x) + other(x)
