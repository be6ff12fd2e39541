"""The plain pre-norm transformer that the point-cloud ViTs share, under their official parameter names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.contracts import Prefix, Role, SelfAttention, Site, TransformerBlock, unwrapped


class DropPath(nn.Module):
    """Stochastic depth: one Bernoulli draw a sample, kept samples divided by the keep probability (Huang et al., 2016).

    Args:
        rate: probability of dropping the branch, only in training mode.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class Attention(SelfAttention):
    """Multi-head self-attention with a fused projection without bias: (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, prefix: Prefix | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = self.mask()
        if prefix is not None:
            (k, v), mask = prefix.before(k, v), prefix.shown(mask)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def mask(self) -> Tensor | None:
        """Which tokens (columns) each attends to, bool, to be broadcast to (B, heads, T, T); ``None``: all."""
        return None


class FeedForward(nn.Module):
    """Two layers with an exact GELU between them: (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(TransformerBlock):
    """x + attention(norm1 x), then x + feed-forward(norm2 x), each branch under stochastic depth.

    Parameters are in the official order, which is that of the tensors in optimizer states.
    """

    def __init__(self, width: int, heads: int, drop_path: float, ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, ratio * width)
        self.attn = Attention(width, heads)
        self.drop_path = DropPath(drop_path)
        self.drop_rate = drop_path

    def normalized(self, x: Tensor) -> Tensor:
        return self.norm1(x)  # type: ignore[no-any-return]

    def dropped(self, branch: Tensor) -> Tensor:
        return self.drop_path(branch)  # type: ignore[no-any-return]

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.attn(self.normalized(x))

    def transformed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """A stack of blocks under the two-level name ``blocks.blocks``. The position is added anew before every block.

    Args:
        drop_path: rate of the last block; it grows linearly from ``first`` at the first.
        block: class of a block, made of width, heads and rate.
        first: rate of the first block.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        drop_path: float,
        block: Callable[..., nn.Module] = Block,
        first: float = 0.0,
    ) -> None:
        super().__init__()
        rates = torch.linspace(first, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(block(width, heads, rate) for rate in rates)

    def forward(self, x: Tensor, position: Tensor, layers: tuple[int, ...] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, T, C) and its position of the same shape -> the last output, and the outputs of ``layers``."""
        kept = {}
        for index, block in enumerate(self.blocks):
            x = block(x + position)
            if index in layers:
                kept[index] = x
        return x, kept


Places = tuple[tuple[str, Role, bool], ...]

# Path in a block, role, and whether the tokens that flow through have centers.
BLOCK_PLACES: Places = (
    ("attn", "attention", True),
    ("attn.qkv", "attention_in", True),
    ("attn.proj", "attention_out", True),
    ("mlp.fc1", "mlp_in", True),
    ("mlp.fc2", "mlp_out", True),
)


def block_sites(blocks: nn.ModuleList, prefix: str, level: int = 0, places: Places = BLOCK_PLACES) -> list[Site]:
    """The attention of every block and its dense layers, in the order of the forward pass."""
    sites = []
    for index, block in enumerate(blocks):
        for path, role, has_centers in places:
            owner, _, attribute = path.rpartition(".")
            part = unwrapped(unwrapped(block).get_submodule(owner))
            sites.append(Site(f"{prefix}.{index}.{path}", role, index, level if has_centers else None, part, attribute))
    return sites


def whole_blocks(blocks: nn.ModuleList, prefix: str, level: int = 0, first: int = 0) -> list[Site]:
    """The blocks themselves; ``first`` is the index of the first one among those of all stages."""
    return [Site(f"{prefix}.{i}", "block", first + i, level, blocks, str(i)) for i in range(len(blocks))]


def patch_encoder_sites(encoder: nn.Module, prefix: str = "encoder") -> list[Site]:
    """The convolutions of a mini-PointNet, in the order of the forward pass."""
    return [
        Site(f"{prefix}.{part}.{index}", "patch_embedding", -1, None, getattr(encoder, part), index)
        for part in ("first_conv", "second_conv")
        for index, layer in getattr(encoder, part).named_children()
        if not isinstance(layer, nn.BatchNorm1d | nn.ReLU)  # a method may have wrapped the convolution
    ]
