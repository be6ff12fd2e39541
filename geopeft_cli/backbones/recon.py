"""ReCon: Point-MAE's stream beside one of contrastive queries (Qi et al., ICML 2023, arXiv 2302.02318)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.layouts import RECON
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.backbones.transformer import BLOCK_PLACES, Block, FeedForward, Places
from geopeft_cli.contracts import CheckpointLayout, Level

QUERIES = ("cls", "img", "text")


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B, Q, C) to points (B, G, C), without biases but in the output: (B, Q, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, points: Tensor) -> Tensor:
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(points).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TwoStreamBlock(Block):
    """Points attend to each other, and the queries before them to the points. Both residuals start behind the norm."""

    def __init__(self, width: int, heads: int, drop_path: float, ratio: int = 4) -> None:
        super().__init__(width, heads, drop_path, ratio)
        self.norm1_contrast = nn.LayerNorm(width)
        self.norm2_contrast = nn.LayerNorm(width)
        self.mlp_contrast = FeedForward(width, ratio * width)
        self.attn_contrast = CrossAttention(width, heads)

    def normalized(self, x: Tensor) -> Tensor:
        return _joined(self.norm1_contrast(_queries(x)), self.norm1(_points(x)))

    def dropped(self, branch: Tensor) -> Tensor:  # the streams each by itself
        return _joined(self.drop_path(_queries(branch)), self.drop_path(_points(branch)))

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        queries, points = self.norm1_contrast(_queries(x)), self.norm1(_points(x))
        return _joined(queries, points), _joined(self.attn_contrast(queries, points), self.attn(points))

    def transformed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        queries, points = self.norm2_contrast(_queries(x)), self.norm2(_points(x))
        return _joined(queries, points), _joined(self.mlp_contrast(queries), self.mlp(points))


def _queries(x: Tensor) -> Tensor:
    return x[:, : len(QUERIES)]


def _points(x: Tensor) -> Tensor:
    return x[:, len(QUERIES) :]


def _joined(queries: Tensor, points: Tensor) -> Tensor:
    return torch.cat([queries, points], dim=1)


class ReCon(PatchTransformer):
    """The encoder of ReCon: queries for class, image and text, which read the patches and are not read by them.

    All its tokens come from the pre-training. Geometry is that of the patches; the layers that read the queries have
    none, and roles of their own.
    """

    name: ClassVar[str] = "recon"
    layout: ClassVar[CheckpointLayout] = RECON
    point_head: ClassVar[str | None] = "tokens_and_queries"
    leading: tuple[str, ...] = QUERIES
    leading_if_dense: ClassVar[tuple[str, ...]] = QUERIES
    block: ClassVar[type[nn.Module]] = TwoStreamBlock
    places: ClassVar[Places] = (
        ("attn_contrast.q", "query_attention_in", False),
        ("attn_contrast.kv", "query_attention_in", True),
        ("attn_contrast.proj", "query_attention_out", False),
        *BLOCK_PLACES[:3],
        ("mlp_contrast.fc1", "query_mlp_in", False),
        ("mlp_contrast.fc2", "query_mlp_out", False),
        *BLOCK_PLACES[3:],
    )

    def level(self, centers: Tensor, slots: Tensor) -> Level:
        return Level(centers, slots[len(QUERIES) :])
