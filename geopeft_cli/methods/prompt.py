"""Prefix tuning: trained keys and values in every attention (Li and Liang, ACL 2021, arXiv 2101.00190).

The vectors themselves train, where the paper makes them by a network that it discards after training. This is how we
read the prompts that GEM (arXiv 2505.22444) is compared with, whose count of parameters this gives.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Backbone, Method, Prefix, SelfAttention, Wrapper
from geopeft_cli.errors import UsageError

_STD = 0.02


class Prompt(Method):
    """Not mergeable, geometry-free; no step-0 identity, since every token gives the prefix a share of its attention.

    Args:
        length: m, how many keys and as many values every block has.
    """

    name: ClassVar[str] = "prompt"

    def __init__(self, length: int = 384) -> None:
        self.length = length

    def settings(self) -> dict[str, Any]:
        return {"length": self.length}

    @property
    def is_identity_at_start(self) -> bool:
        return False

    def attach(self, backbone: Backbone) -> None:
        """See :class:`geopeft_cli.contracts.Method`.

        Raises:
            UsageError: the backbone has no attention over keys and values.
        """
        sites = [s for s in backbone.sites() if s.role == "attention" and s.block in backbone.encoder_blocks]
        attentions = [site.module for site in sites]
        if not attentions or not all(isinstance(attention, SelfAttention) for attention in attentions):
            raise UsageError(
                f"method.name: prompt is for attentions, which read keys and values, and {backbone.name} has none",
                "Use adapter, lora or most, which go on dense layers.",
            )
        for site, attention in zip(sites, attentions, strict=True):
            assert isinstance(attention, SelfAttention)
            site.replace(PrefixedAttention(attention, self.length))


class PrefixedAttention(Wrapper):
    """An attention behind its own prefix, drawn from N(0, 0.02): (B, T, C) -> (B, T, C), or packed.

    Args:
        base: the attention.
        length: m of ``prefix_keys`` and ``prefix_values``, (m, C) each.
    """

    base: SelfAttention
    unfoldable: ClassVar[str] = "its keys take part in the softmax"

    def __init__(self, base: SelfAttention, length: int) -> None:
        super().__init__(base)
        self.prefix_keys = nn.Parameter(_STD * torch.randn(length, base.width))
        self.prefix_values = nn.Parameter(_STD * torch.randn(length, base.width))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x, Prefix(self.prefix_keys, self.prefix_values))  # type: ignore[no-any-return]
