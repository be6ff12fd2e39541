"""Blocks of Mamba3D: local pooling over neighboring patches, then a selective scan (Han et al., 2024, 2404.14966)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.selective_scan import selective_scan
from geopeft_cli.backbones.transformer import DropPath
from geopeft_cli.contracts import Role, Site

STATE = 16  # N, entries of the state of a channel
TAPS = 4  # tokens that the convolution before the scan sees, the token itself the last
NEIGHBORS = 4  # centers whose tokens are pooled, the center itself among them
SIGMA_EPS = 1e-5
SMALLEST_VARIANCE = 1e-12  # a constant field has no spread to divide by, and the root no gradient at 0

Variant = Literal["per_sample", "released"]


class Mixer(nn.Module):
    """Two selective scans over the tokens, (B, T, C) -> (B, T, C); in the released code ``bimamba_type: v4``.

    Both run from the first token to the last. The second sees the 4 C channels in reverse, so that signal and gate
    change places in it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.rank = 2 * width, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * self.inner, bias=False)
        self.conv1d, self.conv1d_b = self._convolution(), self._convolution()
        self.x_proj, self.x_proj_b = (nn.Linear(self.inner, self.rank + 2 * STATE, bias=False) for _ in range(2))
        self.dt_proj, self.dt_proj_b = (nn.Linear(self.rank, self.inner) for _ in range(2))
        rates = torch.arange(1.0, STATE + 1).log().repeat(self.inner, 1)
        self.A_log, self.A_b_log = nn.Parameter(rates), nn.Parameter(rates.clone())
        self.D, self.D_b = (nn.Parameter(torch.ones(self.inner)) for _ in range(2))
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.in_proj(x)
        y = self._scan(channels, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        reverse = self._scan(channels.flip(-1), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        return self.out_proj(y + reverse.flip(-1))  # type: ignore[no-any-return]

    def _convolution(self) -> nn.Conv1d:
        return nn.Conv1d(self.inner, self.inner, TAPS, groups=self.inner, padding=TAPS - 1)

    def _scan(
        self, channels: Tensor, conv: nn.Module, x_proj: nn.Module, dt_proj: nn.Module, a_log: Tensor, skip: Tensor
    ) -> Tensor:
        """Signal and gate (B, T, 4 C) -> (B, T, 2 C)."""
        signal, gate = channels.chunk(2, dim=-1)
        u = F.silu(conv(signal.mT)[..., : signal.shape[1]].mT)
        step, b, c = x_proj(u).split([self.rank, STATE, STATE], dim=-1)
        y = selective_scan(u, F.softplus(dt_proj(step)), -a_log.exp(), b, c)
        return (y + skip * u) * F.silu(gate)


class LocalNorm(nn.Module):
    """K-norm: differences to the tokens of the nearest centers in units of their deviation, beside the token."""

    def __init__(self, width: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.affine_alpha_feat = nn.Parameter(torch.ones(1, 1, 1, 2 * width))
        self.affine_beta_feat = nn.Parameter(torch.zeros(1, 1, 1, 2 * width))

    def forward(self, f: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, G, C), indices (B, G, k) -> the scaled differences (B, G, k, C) and the scaled token (B, G, C)."""
        index = neighbors.flatten(1).unsqueeze(-1).expand(-1, -1, f.shape[2])
        difference = f.gather(1, index).unflatten(1, neighbors.shape[1:]) - f.unsqueeze(2)
        variance = difference.var() if self.variant == "released" else difference.var(dim=(1, 2, 3), keepdim=True)
        difference = difference / (variance.clamp_min(SMALLEST_VARIANCE).sqrt() + SIGMA_EPS)
        alpha, beta = self.affine_alpha_feat.chunk(2, dim=-1), self.affine_beta_feat.chunk(2, dim=-1)
        return alpha[0] * difference + beta[0], alpha[1][0] * f + beta[1][0]


class LocalPooling(nn.Module):
    """K-norm, K-pooling and a dense layer over the spatial tokens; the class token, first, passes."""

    def __init__(self, width: int, variant: Variant) -> None:
        super().__init__()
        self.lga = LocalNorm(width, variant)
        self.pre_norm_ft = nn.LayerNorm(2 * width)
        self.mlp = nn.ModuleDict({"share_mlp": nn.Conv1d(2 * width, width, 1)})

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:
        """(B, 1 + G, C) and indices of the nearest centers (B, G, k) -> (B, 1 + G, C)."""
        difference, token = self.lga(x[:, 1:], neighbors)
        # of k equal values, the repeated token, the pooling gives the value
        pooled = torch.cat([(difference * difference.softmax(dim=2)).sum(dim=2), token], dim=-1)
        local = F.silu(self.mlp["share_mlp"](self.pre_norm_ft(pooled).mT)).mT
        return torch.cat([x[:, :1], local], dim=1)


class Block(nn.Module):
    """x + local pooling(norm1 x), then x + mixer(norm2 x), each branch under stochastic depth."""

    def __init__(self, width: int, drop_path: float, variant: Variant) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.lfa = LocalPooling(width, variant)
        self.norm2 = nn.LayerNorm(width)
        self.mixer = Mixer(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:
        x = x + self.drop_path(self.lfa(self.norm1(x), neighbors))
        return x + self.drop_path(self.mixer(self.norm2(x)))  # type: ignore[no-any-return]


class MambaTrunk(nn.Module):
    """A stack of blocks under the name ``blocks.blocks``. The position is added anew before every block.

    Args:
        drop_path: rate of the last block; it grows linearly from 0 at the first.
    """

    def __init__(self, width: int, depth: int, drop_path: float, variant: Variant) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(width, rate, variant) for rate in rates)

    def forward(
        self, x: Tensor, position: Tensor, neighbors: Tensor, layers: tuple[int, ...] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Tokens and positions (B, T, C), indices (B, G, k) -> the last output, and the outputs of ``layers``."""
        kept = {}
        for index, block in enumerate(self.blocks):
            x = block(x + position, neighbors)
            if index in layers:
                kept[index] = x
        return x, kept


_LAYERS: tuple[tuple[str, Role], ...] = (
    ("in_proj", "attention_in"),
    ("x_proj", "scan"),
    ("dt_proj", "scan"),
    ("x_proj_b", "scan"),
    ("dt_proj_b", "scan"),
    ("out_proj", "attention_out"),
)


def mamba_sites(blocks: nn.ModuleList, prefix: str) -> list[Site]:
    """Of every block the layer of the local pooling, the mixer, and the mixer's layers, as they are called."""
    sites = []
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        name = f"{prefix}.{index}"
        sites.append(Site(f"{name}.lfa.mlp.share_mlp", "local", index, None, block.lfa.mlp, "share_mlp"))
        sites.append(Site(f"{name}.mixer", "attention", index, 0, block, "mixer"))
        sites += [Site(f"{name}.mixer.{layer}", role, index, 0, block.mixer, layer) for layer, role in _LAYERS]
    return sites
