"""A fine-tuned network with stages in the official layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.point_m2ae import PointM2AE
from geopeft_cli.exporting.official import export_official
from geopeft_cli.tasks.classification import Classification


def staged(classes: list[str]) -> PointM2AE:
    torch.manual_seed(0)
    model = PointM2AE((8, 12, 16), (1, 1, 2), 2, (16, 10, 8), (6, 4, 4), (0.5, 0.8, 1.2))
    Classification(classes).attach(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_official_layout(suffix: str, clouds: Tensor, manifest: Manifest, tmp_path: Path) -> None:
    assert export_official(staged(manifest.classes), tmp_path / f"model{suffix}", clouds, manifest).difference == 0.0
