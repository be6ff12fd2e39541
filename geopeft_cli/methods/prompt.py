"""Prefix tuning: trained keys and values in every attention (Li and Liang, ACL 2021, arXiv 2101.00190).

The vectors themselves train, where the paper makes them by a network that it discards after training. This is how we
read the prompts that GEM (arXiv 2505.22444) is compared with, whose count of parameters this gives.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Backbone, Method, Prefix, SelfAttention, Site, Wrapper
from geopeft_cli.errors import UsageError

_STD = 0.02
_HINT = "Use adapter, lora or most, which go on dense layers."


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
            UsageError: the backbone has no attention, or one without keys and values.
        """
        sites = [s for s in backbone.sites() if s.role == "attention" and s.block in backbone.encoder_blocks]
        if not sites:
            raise UsageError(f"method.name: prompt is for attentions, and {backbone.name} has none", _HINT)
        for site in sites:
            site.replace(PrefixedAttention(_attention(site), self.length))


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
        self.prefix_keys = nn.Parameter(torch.empty(length, base.width))
        self.prefix_values = nn.Parameter(torch.empty(length, base.width))
        for drawn in (self.prefix_keys, self.prefix_values):
            nn.init.normal_(drawn, std=_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x, Prefix(self.prefix_keys, self.prefix_values))  # type: ignore[no-any-return]


def _attention(site: Site) -> SelfAttention:
    """The attention at a site.

    Raises:
        UsageError: it takes no prefix, or something else is there, such as another method's module.
    """
    attention = site.module
    if isinstance(attention, SelfAttention):
        return attention
    raise UsageError(
        f"method.name: prompt stands before keys and values, and {site.name} is a {type(attention).__name__}", _HINT
    )
