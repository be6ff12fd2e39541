"""Where a method may attach, and what it puts there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BlockRole = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
# In a second stream of tokens, which have no centers and read those that do.
QueryRole = Literal["query_attention_in", "query_attention_out", "query_mlp_in", "query_mlp_out"]
# ``generator_attention`` is that of a generator, which runs in training only.
WholeRole = Literal["attention", "generator_attention", "block"]
Role = Literal[WholeRole, BlockRole, QueryRole, "scan", "local", "position", "patch_embedding", "transition"]
WHOLE_ROLES: tuple[WholeRole, ...] = get_args(WholeRole)
BLOCK_ROLES: tuple[BlockRole, ...] = get_args(BlockRole)


@dataclass(frozen=True)
class Site:
    """A named module of a backbone where a method may attach: a dense layer, a whole attention, or a whole block.

    Attributes:
        name: the official module path, for example ``blocks.blocks.0.attn.qkv``.
        role: what the module does, the same word on every backbone; all but ``WHOLE_ROLES`` are dense layers,
            ``transition`` one between two stages. Where blocks are sites, they take :class:`Branches`; a
            :class:`SelfAttention` takes a :class:`Prefix`.
        block: index of the transformer block that holds it, -1 outside the blocks.
        level: index into ``Geometry.levels`` of the tokens that flow through it, ``None`` where it reads no
            sequence of tokens (patch encoder, position encoding, pooling over neighbors) or tokens without centers
            alone (queries).
        owner: the module that holds the layer.
        attribute: the name under which ``owner`` holds it.
        predicted: as ``level``, with the centers of what the tokens predict in place of their own, where they
            predict their successors.
    """

    name: str
    role: Role
    block: int
    level: int | None
    owner: nn.Module
    attribute: str
    predicted: int | None = None

    @property
    def module(self) -> nn.Module:
        """The module that is at the site now: the original or what a method put there."""
        module: nn.Module = getattr(self.owner, self.attribute)
        return module

    def replace(self, module: nn.Module) -> None:
        """Put ``module``, which must have the call signature of the present one, at the site."""
        setattr(self.owner, self.attribute, module)


class TransformerBlock(nn.Module, ABC):
    """A block as its two halves, each a stream of tokens (B, T, C) and a branch of the same shape to be added to it.

    Attributes:
        drop_rate: how often a branch is dropped for a cloud in training.
    """

    drop_rate: float = 0.0

    @abstractmethod
    def normalized(self, x: Tensor) -> Tensor:
        """What the attention reads of the tokens (B, T, C) that enter the block."""

    @abstractmethod
    def dropped(self, branch: Tensor) -> Tensor:
        """A branch under the block's stochastic depth."""

    @abstractmethod
    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Stream and branch of the attention, of the tokens (B, T, C) that enter the block."""

    @abstractmethod
    def transformed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Stream and branch of the feed-forward layers, of the sum of the attention's."""

    def forward(self, x: Tensor) -> Tensor:
        for half in (self.attended, self.transformed):
            stream, branch = half(x)
            x = stream + self.dropped(branch)
        return x


class Prefix(NamedTuple):
    """Keys and values that stand before those of an attention, and that all tokens attend to beside each other.

    Attributes:
        keys: (m, C), the channels of the first head first.
        values: (m, C).
    """

    keys: Tensor
    values: Tensor

    def before(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of tokens, (B, heads, T, d) with heads d = C, with the prefix: (B, heads, m + T, d)."""
        return self._joined(self.keys, keys), self._joined(self.values, values)

    def shown(self, mask: Tensor | None) -> Tensor | None:
        """Which of both a token attends to, bool (..., T, m + T), by which tokens (..., T, T); ``None``: all."""
        return None if mask is None else F.pad(mask, (len(self.keys), 0), value=True)

    @staticmethod
    def _joined(own: Tensor, others: Tensor) -> Tensor:
        by_head = own.to(others.dtype).unflatten(1, (others.shape[1], -1)).transpose(0, 1)
        return torch.cat([by_head.expand(others.shape[0], -1, -1, -1), others], dim=2)


class SelfAttention(nn.Module, ABC):
    """An attention among tokens (B, T, C), or packed (N, C), which may attend to a prefix as well.

    Attributes:
        width: C.
    """

    width: int

    @abstractmethod
    def forward(self, x: Tensor, prefix: Prefix | None = None) -> Tensor: ...


class Wrapper(nn.Module):
    """A module at a site that holds the one it replaced as ``base`` and has its call signature.

    ``unfoldable`` says why it cannot be merged, where it is not :class:`Foldable` by its definition.
    """

    base: nn.Module
    unfoldable: ClassVar[str] = ""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that the backbone was built with, below whatever methods put around it."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


class Branches(NamedTuple):
    """What a wrapper of a block adds to its residual sums, beside the block's own branches, under no drop path.

    Attributes:
        position: reads what the position encoding reads.
        attention: reads what the attention reads, behind the norm.
    """

    position: Callable[[Tensor], Tensor] | None = None
    attention: Callable[[Tensor], Tensor] | None = None
