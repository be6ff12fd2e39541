"""Exports of a network with stages, whose attention is masked by distances that the graph has to compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.point_m2ae import PointM2AE
from geopeft_cli.exporting.official import export_official
from geopeft_cli.exporting.onnx import export_onnx
from geopeft_cli.exporting.program import export_program
from geopeft_cli.methods.most import MoST
from geopeft_cli.tasks.classification import Classification


def staged(classes: list[str], method: MoST | None = None, fusion: int = 0) -> PointM2AE:
    torch.manual_seed(0)
    model = PointM2AE((8, 12, 16), (1, 1, 2), 2, (16, 10, 8), (6, 4, 4), (0.5, 0.8, 1.2))
    if method is not None:
        method.attach(model)
    Classification(classes, fusion={"layers": fusion, "affine": False}).attach(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("export", "name"), [(export_onnx, "model.onnx"), (export_program, "model.pt2")])
def test_most_with_fusion(
    export: Callable[..., Any], name: str, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    result = export(staged(manifest.classes, MoST(blocks=4), fusion=2), tmp_path / name, clouds, manifest)
    assert result.difference < 1e-5
    assert min(points for _, points in result.cases) == 17


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_official_layout(suffix: str, clouds: Tensor, manifest: Manifest, tmp_path: Path) -> None:
    assert export_official(staged(manifest.classes), tmp_path / f"model{suffix}", clouds, manifest).difference == 0.0
