"""The causal transformer of PointGPT and its patch generator, under their official names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.transformer import DropPath, Places
from geopeft_cli.contracts import Geometry, Level, Prefix, SelfAttention, Site, TransformerBlock, published

GPT_PLACES: Places = (
    ("attn", "attention", True),
    ("attn.in_proj", "attention_in", True),
    ("attn.out_proj", "attention_out", True),
    ("mlp.0", "mlp_in", True),
    ("mlp.2", "mlp_out", True),
)


class CausalAttention(SelfAttention):
    """Masked multi-head self-attention, (B, T, C) -> (B, T, C): every token sees itself and those before it.

    Equal to the official ``nn.MultiheadAttention``, which reads its weights directly and so ignores any module
    around its projections. Official files have ``in_proj_weight`` and ``in_proj_bias`` for ``in_proj``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, prefix: Prefix | None = None) -> Tensor:
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None
        if prefix is not None:
            k, v = prefix.before(k, v)
            mask = prefix.shown(x.new_ones(x.shape[1], x.shape[1], dtype=torch.bool).tril())
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=prefix is None)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class GPTLayer(TransformerBlock):
    """x = ln_1 x, then x + attention(x), then x + mlp(ln_2 x): the first residual is that of the normalized stream."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)
        self.drop_rate = drop_path

    def normalized(self, x: Tensor) -> Tensor:
        return self.ln_1(x)  # type: ignore[no-any-return]

    def dropped(self, branch: Tensor) -> Tensor:
        return self.drop_path(branch)  # type: ignore[no-any-return]

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.normalized(x)
        return x, self.attn(x)

    def transformed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.mlp(self.ln_2(x))


class Carried(nn.Module):
    """Tensors of the official class that no output depends on, kept so that files are read and written whole."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))


class GPTStack(nn.Module):
    """Layers with the position added anew before each, and the norm ``ln_f`` that is applied to the last output."""

    def __init__(self, width: int, depth: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.layers = nn.ModuleList(GPTLayer(width, heads, rate) for rate in rates)
        self.ln_f = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, layers: tuple[int, ...] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, T, C) and its position of the same shape -> the last raw output, and the raw outputs of ``layers``."""
        kept = {}
        for index, layer in enumerate(self.layers):
            x = layer(x + position)
            if index in layers:
                kept[index] = x
        return x, kept


class Extractor(GPTStack):
    """The trunk with its start token ``sos`` (C) and the classifier's norm unless ``dense``. Official name ``blocks``.

    Stochastic depth is the segmentation model's: the official classifier ignores its setting.
    """

    def __init__(self, width: int, depth: int, heads: int, channels: int, dense: bool, drop_path: float) -> None:
        super().__init__(width, depth, heads, drop_path if dense else 0.0)
        self.sos = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.sos)
        self.increase_dim = nn.Sequential(Carried(weight=(channels, width, 1), bias=(channels,)))
        if not dense:
            self.cls_norm = nn.LayerNorm(width)


class Generator(GPTStack):
    """Predicts the points of every patch from the patches before it. Official name ``generator_blocks``.

    Args:
        channels: three for every point of a patch that is predicted.
    """

    def __init__(self, width: int, depth: int, heads: int, channels: int) -> None:
        super().__init__(width, depth, heads)
        self.register_buffer("sos", torch.zeros(width))
        self.increase_dim = nn.Sequential(nn.Conv1d(width, channels, 1))

    def sites(self, prefix: str) -> list[Site]:
        """The attention of every layer."""
        return [
            Site(f"{prefix}.layers.{index}.attn", "generator_attention", -1, 0, layer, "attn", predicted=1)
            for index, layer in enumerate(self.layers)
        ]

    def generate(self, features: Tensor, centers: Tensor) -> Tensor:
        """Points (B, G, p, 3) of G patches, in the coordinates of the cloud.

        Publishes two levels for its tokens, which are the start and all patches but the last: one with the centers of
        these patches, and one with those of the patches that are predicted from them, one place on.

        Args:
            features: (B, G + 2, C), the trunk's [sos, cls, patches] after its ``ln_f``.
            centers: (B, G, 3), in the order of the patches.
        """
        earlier = torch.cat([features[:, :1], features[:, 2:-1]], dim=1)
        steps = centers.diff(dim=1)
        directions = steps / steps.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        position = position_encoding(torch.cat([centers[:, :1], directions], dim=1), earlier.shape[-1])
        predicted = torch.arange(earlier.shape[1], device=centers.device)
        with published(Geometry([Level(centers[:, :-1], predicted - 1), Level(centers, predicted)])):
            x = self.ln_f(self(earlier, position)[0])
        return self.increase_dim(x.transpose(1, 2)).transpose(1, 2).unflatten(-1, (-1, 3))  # type: ignore[no-any-return]


def position_encoding(points: Tensor, width: int) -> Tensor:
    """(..., 3) -> (..., C): sin and cos of 2 pi x, again and again, then those of y and z, then zeros.

    The released code sets the temperature to 1, so that one frequency fills all channels.
    """
    times = width // 3 // 2
    angle = 2 * math.pi * points
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1).unsqueeze(-2)
    waves = pairs.expand(*pairs.shape[:-2], times, 2).flatten(-3)
    return F.pad(waves, (0, width - waves.shape[-1]))
