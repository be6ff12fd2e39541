"""Point-PEFT: prompts that remember similar training clouds, and an adapter that knows neighborhoods.

Tang et al., AAAI 2024, arXiv 2310.03059. Every transformer block gets prompts of its own before it and drops them
behind it; to some of them a memory bank adds what a frozen copy of the network finds in it. Behind its feed-forward
layers every block has two bottlenecks, and between them an exchange of tokens within neighborhoods. The biases of the
blocks train as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from geopeft_cli.contracts import Backbone, Method, Site, official_name
from geopeft_cli.errors import UsageError
from geopeft_cli.methods.group_adapter import GroupAttention, LocalStep, Pooling
from geopeft_cli.methods.point_peft_block import PointPEFTBlock
from geopeft_cli.methods.point_peft_groups import Groups, PromptChain, Variant
from geopeft_cli.methods.point_prior import Bank, Precision

logger = logging.getLogger("geopeft")


class PointPEFT(Method):
    """Not mergeable, and no step-0 identity but with ``init="identity"`` and without prompts.

    Args:
        variant: ``per_sample`` is the published computation, every cloud by itself; ``released`` the same with the
            indices of the released code, which reach into other clouds of the batch, and with the parameters that it
            declares and never uses; ``aligned`` takes tokens and centers that belong together.
        prompt: whether there are prompts.
        prompts: P, of a block.
        prompted_blocks: how many blocks, from the first, have prompts; ``None`` for all.
        bank: whether a memory bank adds to the prompts; only where prompts are and blocks as wide as the last one.
        bank_per_class: how many training clouds of a class it keeps; ``None`` for all.
        bank_precision: of its columns.
        adapter: whether there are bottlenecks and local steps.
        bottleneck: hidden width of the bottlenecks.
        attention_width: of query, key and value in a group, over all heads.
        attention_heads: in a group.
        neighbors: k of a group, its center counted; at most the number of tokens.
        ffn_scale: weight of the bottleneck beside the feed-forward layers, in networks with one stage.
        ffn_gate: start of the trained factor that takes its place in networks with several.
        center: weight of the token at the center of a group.
        propagate: weight of what tokens get back from the groups.
        pooling: over a group: ``max``, or ``maxmean`` for the sum of both.
        dropout: of the prompts and in the bottlenecks.
        init: ``identity`` leaves nothing of the adapter at the start, ``released`` is not silent.
    """

    name: ClassVar[str] = "point_peft"

    def __init__(
        self,
        variant: Variant = "per_sample",
        prompt: bool = True,
        prompts: int = 10,
        prompted_blocks: int | None = None,
        bank: bool = True,
        bank_per_class: int | None = None,
        bank_precision: Precision = "fp32",
        adapter: bool = True,
        bottleneck: int = 16,
        attention_width: int = 18,
        attention_heads: int = 6,
        neighbors: int = 16,
        ffn_scale: float = 0.7,
        ffn_gate: float = 1.0,
        center: float = 0.3,
        propagate: float = 0.3,
        pooling: Pooling = "max",
        dropout: float = 0.1,
        init: Literal["released", "identity"] = "released",
    ) -> None:
        self.variant, self.prompt, self.prompts, self.prompted_blocks = variant, prompt, prompts, prompted_blocks
        self.bank, self.bank_per_class, self.bank_precision = bank, bank_per_class, bank_precision
        self.adapter, self.bottleneck = adapter, bottleneck
        self.attention_width, self.attention_heads, self.neighbors = attention_width, attention_heads, neighbors
        self.ffn_scale, self.ffn_gate, self.center, self.propagate = ffn_scale, ffn_gate, center, propagate
        self.pooling, self.dropout, self.init = pooling, dropout, init

    def settings(self) -> dict[str, Any]:
        return dict(vars(self))

    @property
    def is_identity_at_start(self) -> bool:
        return not self.prompt and (not self.adapter or (self.init == "identity" and self.ffn_gate == 1))

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.block_sites()
        if not sites:
            raise UsageError(
                f"method.name: point_peft is for transformer blocks over the patches of a cloud, "
                f"and {backbone.name} has none",
                "Use another method or another backbone.",
            )
        own = _trained(backbone, sites)
        widths = [backbone.get_parameter(name).numel() for name in _first_biases(backbone, sites)]
        prompted = len(sites) if self.prompted_blocks is None else min(self.prompted_blocks, len(sites))
        bank = self._bank(backbone, own, widths[:prompted])
        chain = self._chain(backbone)
        blocks = [PointPEFTBlock(site, width) for site, width in zip(sites, widths, strict=True)]
        if self.prompt:
            self._add_prompts(blocks, prompted, bank)
        if self.adapter:
            self._add_adapters(backbone, sites, blocks, chain)
        for name in own:
            backbone.get_parameter(name).requires_grad_(True)
        for site, block in zip(sites, blocks, strict=True):
            site.replace(block)
        if self.variant == "released":
            backbone.register_module("coupling", _Coupling())

    def _bank(self, backbone: Backbone, own: Sequence[str], widths: Sequence[int]) -> Bank | None:
        if not (self.prompt and self.bank):
            return None
        if backbone.width not in widths:
            raise UsageError(
                f"method.bank: none of the {len(widths)} blocks with prompts is as wide as its columns, "
                f"{backbone.width}",
                "Give prompts to more blocks, or use method.bank=false.",
            )
        bank = Bank(backbone, {*own, *backbone.token_names}, self.prompts, self.bank_per_class, self.bank_precision)
        backbone.register_module("bank", bank)
        return bank

    def _chain(self, backbone: Backbone) -> PromptChain | None:
        if not self.prompt or self.variant == "aligned" or not self.adapter:
            return None
        chain = PromptChain(self.prompts)
        backbone.register_module("prompt_chain", chain)
        return chain

    def _add_prompts(self, blocks: Sequence[PointPEFTBlock], prompted: int, bank: Bank | None) -> None:
        shifted = self.variant != "aligned"
        for index, block in enumerate(blocks):
            if index < prompted or self.variant == "released":
                has_bank = bank is not None and block.width == bank.width
                block.add_prompts(self.prompts, self.dropout, bank if has_bank else None, shifted, index < prompted)

    def _add_adapters(
        self, backbone: Backbone, sites: Sequence[Site], blocks: Sequence[PointPEFTBlock], chain: PromptChain | None
    ) -> None:
        has_stages = len({site.level for site in sites}) > 1
        scale = None if has_stages else self.ffn_scale
        gate = self.ffn_gate if has_stages or self.variant == "released" else None
        groups = Groups(self.neighbors, self.variant, backbone.settings().get("near_origin", "skip"), chain)
        shared: dict[int | None, tuple[nn.Module, GroupAttention]] = {}
        for site, block in zip(sites, blocks, strict=True):
            if site.level not in shared:
                norm = nn.LayerNorm(block.width)
                attention = GroupAttention(block.width, self.attention_width, self.attention_heads)
                shared[site.level] = norm, attention
                stack = backbone.get_submodule(site.name.rsplit(".", 2)[0])
                stack.attn1, stack.norm3 = attention, norm
            step = LocalStep(self.center, self.propagate, self.pooling, block.base.drop_rate)
            silent = self.init == "identity"
            block.add_adapter(self.bottleneck, self.dropout, scale, gate, silent, step, groups, shared[site.level])


def _trained(backbone: Backbone, sites: Sequence[Site]) -> list[str]:
    """Names of the backbone's parameters that train: biases in the blocks, and the norms that the head reads."""
    inside = tuple(f"{site.name}." for site in sites)
    names = [name for name, _ in backbone.named_parameters() if name.startswith(inside) and name.endswith(".bias")]
    return [*names, *(f"{norm}.{part}" for norm in backbone.head_norms for part in ("weight", "bias"))]


def _first_biases(backbone: Backbone, sites: Sequence[Site]) -> list[str]:
    """Of every block the name of its first norm's bias, which has as many entries as a token channels."""
    found = []
    for site in sites:
        norms = (name for name, part in site.module.named_modules() if isinstance(part, nn.LayerNorm))
        found.append(official_name(f"{site.name}.{next(norms)}.bias"))
    return found


class _Coupling(nn.Module):
    """Says once that predictions depend on their batch, when the model first goes into evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.has_warned = False

    def train(self, mode: bool = True) -> _Coupling:
        if not mode and not self.has_warned:
            self.has_warned = True
            logger.warning(
                "method.variant is released: in evaluation too, the prediction for a cloud depends on the other clouds "
                "of its batch and on its place among them; method.variant=per_sample does without"
            )
        super().train(mode)
        return self
