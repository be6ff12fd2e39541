"""What Point Transformer V3 and Sonata are built of (Wu et al., CVPR 2024, arXiv 2312.10035), under official names.

Rows are the voxels of packed scenes, (N, C); their geometry is that of the current forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.flash_attention import flash_attention
from geopeft_cli.backbones.scene_level import SceneLevel
from geopeft_cli.backbones.transformer import DropPath, FeedForward
from geopeft_cli.contracts import Branches, Prefix, Role, SelfAttention, Site, current_level, unwrapped
from geopeft_cli.errors import GeometryError
from geopeft_cli.geometry.clusters import Clusters
from geopeft_cli.geometry.sparse_convolution import SubmanifoldConvolution

Norm = Callable[[int], nn.Module]


class PatchAttention(SelfAttention):
    """Attention among the voxels of a patch: (N, C) -> (N, C).

    Args:
        width: channels.
        heads: attention heads.
        level: index of the stage.
        turn: index of the block in its stage, which tells its curve.
        length: voxels in a patch.
    """

    def __init__(self, width: int, heads: int, level: int, turn: int, length: int) -> None:
        super().__init__()
        self.width, self.heads, self.level, self.turn, self.length = width, heads, level, turn, length
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, prefix: Prefix | None = None) -> Tensor:
        """As above; every patch of every scene attends to the whole of ``prefix``."""
        level = current_level(self.level, "a patch attention")
        if not isinstance(level, SceneLevel) or not level.describes(x):
            raise GeometryError(f"a patch attention got {tuple(x.shape)}, the geometry describes {level.described}")
        cut = level.patches(self.turn, self.length)
        fused: Tensor = self.qkv(x)
        if level.attention == "flash" and prefix is None:
            mixed = flash_attention(fused, cut, self.heads).to(x.dtype)
        else:
            parts = (self._mixed(fused.index_select(0, rows.flatten()), len(rows), prefix) for rows in cut.rows)
            mixed = torch.cat(list(parts))
        return self.proj(mixed.index_select(0, cut.back))  # type: ignore[no-any-return]

    def _mixed(self, fused: Tensor, patches: int, prefix: Prefix | None) -> Tensor:
        """Rows (patches * length, 3 C) of patches of one length, one after the other -> (patches * length, C)."""
        q, k, v = fused.view(patches, -1, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        if prefix is not None:
            k, v = prefix.before(k, v)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)


class Block(nn.Module):
    """x + position encoding, then + attention and + feed-forward, which are under drop path, voxel by voxel.

    Args:
        width: channels.
        heads: attention heads.
        level: index of the stage.
        turn: index in the stage.
        length: voxels in a patch.
        drop_path: rate.
    """

    def __init__(self, width: int, heads: int, level: int, turn: int, length: int, drop_path: float) -> None:
        super().__init__()
        self.cpe = nn.Sequential(
            SubmanifoldConvolution(width, width, 3, level), nn.Linear(width, width), nn.LayerNorm(width)
        )
        self.norm1 = nn.Sequential(nn.LayerNorm(width))
        self.attn = PatchAttention(width, heads, level, turn, length)
        self.norm2 = nn.Sequential(nn.LayerNorm(width))
        self.mlp = nn.Sequential(FeedForward(width, 4 * width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, stale: Tensor | None = None, branches: Branches | None = None) -> Tensor:
        """(N, C) -> (N, C); the position encoding reads ``stale`` in place of ``x`` where it is given."""
        encoded = x if stale is None else stale
        y = x + self.cpe(encoded)
        if branches is not None and branches.position is not None:
            y = y + branches.position(encoded)
        h = self.norm1(y)
        z = y + self.drop_path(self.attn(h))
        if branches is not None and branches.attention is not None:
            z = z + branches.attention(h)
        return z + self.drop_path(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Down(nn.Module):
    """The way into a stage: project, take the maximum over the voxels that are joined, norm, GELU."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)
        self.norm = nn.Sequential(norm(outputs))

    def forward(self, x: Tensor, clusters: Clusters) -> Tensor:
        return F.gelu(self.norm(clusters.maximum(self.proj(x))))


class Up(nn.Module):
    """The way back: the coarser stage, copied to all voxels that were joined, plus the encoder's stage."""

    def __init__(self, inputs: int, skipped: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(inputs, outputs), norm(outputs), nn.GELU())
        self.proj_skip = nn.Sequential(nn.Linear(skipped, outputs), norm(outputs), nn.GELU())

    def forward(self, x: Tensor, skip: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
        """The sum (N, C), and the encoder's share of it."""
        skip = self.proj_skip(skip)
        return skip + clusters.spread(self.proj(x)), skip


class Stage(nn.Module):
    """Blocks ``block0``, ``block1``, ... behind ``down`` or ``up``, if there is one.

    Args:
        way: name of the way into the stage, and the module.
        blocks: of the stage.
    """

    def __init__(self, way: tuple[str, nn.Module] | None, blocks: list[Block]) -> None:
        super().__init__()
        if way is not None:
            self.add_module(*way)
        self.depth = len(blocks)
        for index, block in enumerate(blocks):
            self.add_module(f"block{index}", block)

    def forward(self, x: Tensor, stale: Tensor | None = None) -> list[Tensor]:
        """(N, C) -> the output of every block; the first encodes positions by ``stale``, where it is given."""
        outputs = [x]
        for index in range(self.depth):
            block = self.get_submodule(f"block{index}")
            outputs.append(block(outputs[-1], stale if index == 0 else None))
        return outputs[1:]


# Path in a block, and role.
_PLACES: tuple[tuple[str, Role], ...] = (
    ("cpe.1", "position"),
    ("attn", "attention"),
    ("attn.qkv", "attention_in"),
    ("attn.proj", "attention_out"),
    ("mlp.0.fc1", "mlp_in"),
    ("mlp.0.fc2", "mlp_out"),
)


def stage_sites(stage: Stage, prefix: str, level: int, first: int) -> list[Site]:
    """The blocks of a stage and what is in them, in the order of the forward pass, behind ``first`` others."""
    sites = []
    for index in range(stage.depth):
        name = f"block{index}"
        sites.append(Site(f"{prefix}.{name}", "block", first + index, level, stage, name))
        block = unwrapped(stage.get_submodule(name))
        for path, role in _PLACES:
            owner, _, attribute = path.rpartition(".")
            part = unwrapped(block.get_submodule(owner))
            sites.append(Site(f"{prefix}.{name}.{path}", role, first + index, level, part, attribute))
    return sites
