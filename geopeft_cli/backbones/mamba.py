"""Blocks of Mamba3D: local pooling over neighboring patches, then a selective scan (Han et al., 2024, 2404.14966)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.coupled import Variant
from geopeft_cli.backbones.mixer import TwoScanMixer, mixer_sites
from geopeft_cli.backbones.transformer import DropPath
from geopeft_cli.contracts import Site

NEIGHBORS = 4  # centers whose tokens are pooled, the center itself among them
SIGMA_EPS = 1e-5
SMALLEST_VARIANCE = 1e-12  # a constant field has no spread to divide by, and the root no gradient at 0


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
        self.mixer = TwoScanMixer(width)
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


def mamba_sites(blocks: nn.ModuleList, prefix: str) -> list[Site]:
    """Of every block the layer of the local pooling, the mixer, and the mixer's layers, as they are called."""
    sites = []
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        name = f"{prefix}.{index}"
        sites.append(Site(f"{name}.lfa.mlp.share_mlp", "local", index, None, block.lfa.mlp, "share_mlp"))
        sites += mixer_sites(block, name, index, TwoScanMixer)
    return sites
