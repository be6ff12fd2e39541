"""Tiny scene networks, and packed scenes to run them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from geopeft_cli.backbones import scene_backbone_class
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import Scenes
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation

SIZES, EXTENTS = (20, 150, 45), (4, 20, 9)
CHANNELS = 5
ENCODER: dict[str, Any] = {"widths": (8, 12, 16), "depths": (3, 1, 1), "heads": (2, 2, 4), "patch_size": 16}
DECODER: dict[str, Any] = {"decoder_widths": (8, 12), "decoder_depths": (1, 1), "decoder_heads": (2, 2)}
KINDS = {"sonata": {}, "sonata_decoder": DECODER, "ptv3": DECODER}

LINE = torch.arange(17)[:, None] * torch.tensor([[1, 0, 0]])
AWKWARD = {
    "one point": torch.tensor([[0, 0, 0]]),
    "one point off the corner": torch.tensor([[7, 0, 3]]),
    "one voxel": torch.zeros(50, 3, dtype=torch.int64),
    "a line one longer than a patch": LINE,
    "as long as a patch": LINE[:16],
    "a plane": torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.tensor([0])),
    "every voxel twice": torch.cat([LINE, LINE]),
}


def scenes(sizes: Sequence[int] = SIZES, extents: Sequence[int] = EXTENTS, seed: int = 0) -> Scenes:
    """Scenes of random distinct voxels in cubes of so many, the lowest and the highest corner among them."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size, edge in zip(sizes, extents, strict=True):
        inner = torch.randperm(max(edge**3 - 2, 0), generator=generator)[: max(size - 2, 0)] + 1
        number = torch.cat([inner, torch.tensor([edge**3 - 1, 0])])[-size:]
        number = number[torch.randperm(size, generator=generator)]
        parts.append(torch.stack([number // edge**2, number // edge % edge, number % edge], dim=1))
    return of_voxels(torch.cat(parts), sizes, seed)


def of_voxels(voxels: torch.Tensor, sizes: Sequence[int], seed: int = 0) -> Scenes:
    generator = torch.Generator().manual_seed(seed)
    coordinates = 0.02 * (voxels + torch.rand(voxels.shape, generator=generator))
    features = torch.randn(len(voxels), CHANNELS, generator=generator)
    return Scenes(coordinates, voxels, features, torch.tensor([0, *sizes]).cumsum(0))


def alone(batch: Scenes, index: int) -> Scenes:
    rows = slice(int(batch.offsets[index]), int(batch.offsets[index + 1]))
    offsets = torch.tensor([0, rows.stop - rows.start])
    return Scenes(batch.coordinates[rows], batch.voxels[rows], batch.features[rows], offsets)


def together(first: Scenes, second: Scenes) -> Scenes:
    """Two batches as one."""
    rows = (torch.cat([getattr(first, n), getattr(second, n)]) for n in ("coordinates", "voxels", "features"))
    return Scenes(*rows, torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]]))


def network(kind: str = "sonata", channels: int = CHANNELS, **settings: Any) -> SceneTransformer:
    """A network of a tiny size whose outputs are as large as those of a trained one, with a head, in evaluation."""
    torch.manual_seed(0)
    sizes = {**ENCODER, "decoder_widths": (), "decoder_depths": (), **KINDS[kind], **settings}
    model = scene_backbone_class(kind.partition("_")[0])(channels, **sizes)
    assert isinstance(model, SceneTransformer)
    VoxelSegmentation(["floor", "wall", "table"]).attach(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith(".bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()
