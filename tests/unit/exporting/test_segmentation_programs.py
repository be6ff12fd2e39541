"""Programs of segmentation: a label a point, and the category of every cloud where the model is told it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.exporting.onnx import export_onnx
from geopeft_cli.tasks.segmentation import PartSegmentation

CLASSES, PARTS = ("chair", "table", "lamp"), {"chair": (0, 1), "table": (1, 2), "lamp": (3,)}
LABELS = ("leg", "seat", "top", "shade")


def tiny() -> PointMAE:
    torch.manual_seed(0)
    model = PointMAE(width=16, depth=3, heads=2, groups=8, group_size=8, dense=True)
    PartSegmentation(CLASSES, LABELS, PARTS).attach(model)
    return model.eval()


@pytest.fixture
def of_parts(manifest: Manifest) -> Manifest:
    return replace(manifest, part_names=list(LABELS), parts={name: list(own) for name, own in PARTS.items()})


@pytest.mark.slow
def test_an_onnx_file_takes_points_and_categories(clouds: Tensor, of_parts: Manifest, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    assert len(export_onnx(tiny(), file, clouds, of_parts).cases) == 9
    session = onnxruntime.InferenceSession(file)
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"points": ["batch", "n", 3], "categories": ["batch"], "logits": ["batch", "n", 4]}
    record = session.get_modelmeta().custom_metadata_map
    assert json.loads(record["part_names"]) == list(LABELS)
    assert json.loads(record["parts"]) == {name: list(own) for name, own in PARTS.items()}
