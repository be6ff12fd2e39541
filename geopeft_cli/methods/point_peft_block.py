"""A transformer block under Point-PEFT: prompts go in and out, bottlenecks and the local step follow its halves."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import (
    Geometry,
    Level,
    Site,
    TransformerBlock,
    Wrapper,
    current_geometry,
    published,
)
from geopeft_cli.errors import GeometryError
from geopeft_cli.methods.bottleneck import Bottleneck
from geopeft_cli.methods.group_adapter import GroupAttention, LocalStep
from geopeft_cli.methods.point_peft_groups import Groups
from geopeft_cli.methods.point_prior import Bank

CP_HIDDEN = 8


class PointPEFTBlock(Wrapper):
    """(B, T, C) -> (B, T, C) around a block; parameters have the official names.

    Args:
        site: of the block.
        width: C.
    """

    base: TransformerBlock
    unfoldable: ClassVar[str] = "nothing of Point-PEFT is linear in the weights"

    def __init__(self, site: Site, width: int) -> None:
        block = site.module
        assert isinstance(block, TransformerBlock)
        assert site.level is not None
        super().__init__(block)
        self.level, self.site, self.width = site.level, site.name, width
        self.prompts = 0
        self.has_adapter = False
        self.bank: tuple[Bank, ...] = ()  # in a tuple: a part of the model elsewhere, once for all blocks

    def add_prompts(self, count: int, dropout: float, bank: Bank | None, shifted: bool, used: bool = True) -> None:
        """Prompts before the tokens with centers.

        Args:
            count: P.
            dropout: of the prompts, and in the bottleneck behind the bank.
            bank: whose rows are added to them.
            shifted: whether the attention takes the last places for those of the prompts, as the released code does.
            used: whether they have any effect; the released code has some that have none.
        """
        self.prompt_embeddings = nn.Parameter(torch.empty(count, self.width))
        nn.init.trunc_normal_(self.prompt_embeddings, std=0.02, a=-2.0, b=2.0)
        self.prompt_dropout = nn.Dropout(dropout)
        self.shifted = shifted
        if bank is not None:
            self.cp_adapter = Bottleneck(self.width, CP_HIDDEN, dropout)
            self.bank = (bank,)
        self.prompts = count if used else 0

    def add_adapter(
        self, hidden: int, dropout: float, ffn_scale: float | None, gate: float | None, silent: bool, step: LocalStep,
        groups: Groups, shared: tuple[nn.Module, GroupAttention],
    ) -> None:  # fmt: skip
        """Bottlenecks and the local step.

        Args:
            hidden: of the bottlenecks.
            dropout: in them.
            ffn_scale: weight of the one beside the feed-forward layers; ``None`` for the gate in its place.
            gate: start of a trained factor of both; ``None`` for none.
            silent: whether nothing of it has an effect at the start.
            step: what is done in the groups.
            groups: which they are.
            shared: norm and attention of all blocks of the stage.
        """
        self.adapter = Bottleneck(self.width, hidden, dropout, silent)
        self.adapter1 = Bottleneck(self.width, hidden, dropout, silent)
        self.out_transform = nn.Sequential(nn.BatchNorm1d(self.width), nn.GELU())
        self.ad_gate = None if gate is None else nn.Parameter(torch.full((1,), gate))
        self.local_gate = nn.Parameter(torch.zeros(1)) if silent else None
        self.ffn_scale, self.step, self.groups, self.shared = ffn_scale, step, groups, shared
        self.has_adapter = True

    def forward(self, x: Tensor) -> Tensor:
        geometry = current_geometry(self.level, self.site)
        level = geometry.levels[self.level]
        first = x.shape[1] - level.centers.shape[1]
        if first < level.leading:
            raise GeometryError(f"{self.site} got {x.shape[1]} tokens, the geometry describes {level.described}")
        if not self.prompts:
            return self.adapted(x, geometry)
        prompts = self.prompted(geometry, x.shape[0]).to(x.dtype)
        z = torch.cat([x[:, :first], prompts, x[:, first:]], dim=1)
        with published(self.inner(geometry, level)):
            z = self.adapted(z, geometry)
        return torch.cat([z[:, :first], z[:, first + self.prompts :]], dim=1)

    def prompted(self, geometry: Geometry, batch: int) -> Tensor:
        """The prompts of every cloud, (B, P, C)."""
        prompts: Tensor = self.prompt_dropout(self.prompt_embeddings.expand(batch, -1, -1))
        for bank in self.bank:
            enhanced = geometry.memo("enhanced", partial(bank.enhanced, geometry))
            prompts = prompts + enhanced + self.cp_adapter(enhanced)
        return prompts

    def inner(self, geometry: Geometry, level: Level) -> Geometry:
        """What the block itself sees of the centers, with places for the prompts."""

        def build() -> Geometry:
            with_prompts = level.prompted(self.prompts)
            if self.shifted:
                first, end = level.leading, level.slots.new_full((self.prompts,), -1)
                slots = torch.cat([level.slots[:first], level.slots[first:], end])
                with_prompts = Level(level.centers, slots)
            return geometry.with_level(self.level, with_prompts)

        return geometry.memo(("inner", self.level, self.prompts, self.shifted), build)

    def adapted(self, z: Tensor, geometry: Geometry) -> Tensor:
        if not self.has_adapter:
            return self.base(z)  # type: ignore[no-any-return]
        stream, branch = self.base.attended(z)  # without stochastic depth here, as released
        stream, branch = self.base.transformed(stream + branch)
        branch = self.dropped(branch)
        if self.ffn_scale is not None:
            z = stream + torch.add(branch, self.adapter(branch), alpha=self.ffn_scale)
        else:
            z = stream + self.ad_gate * (branch + self.adapter(branch))
        grouping = self.groups.of(geometry, self.level, z.shape[1], self.prompts)
        z = self.step(z, grouping, *self.shared, self.out_transform, self.local_gate)
        return z + self.adapter1(z)  # type: ignore[no-any-return]

    def dropped(self, branch: Tensor) -> Tensor:
        """Under stochastic depth, one draw a cloud."""
        rate = self.base.drop_rate
        if not self.training or rate == 0:
            return branch
        return branch * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(1 - rate).div_(1 - rate)
