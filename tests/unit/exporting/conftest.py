"""A small Point-MAE with every option of the room, and prepared clouds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Method
from geopeft_cli.data.sources import splits_for
from geopeft_cli.tasks.classification import Classification

CLASSES = ["chair", "table", "lamp"]
POINTS = 64

Build = Callable[..., PointMAE]


@pytest.fixture(scope="session")
def clouds() -> Tensor:
    """Six simulated scans in the unit sphere, (6, 64, 3)."""
    found = splits_for(
        format="shapes",
        domain="scan",
        train_per_class=1,
        validation_per_class=0,
        test_per_class=1,
        seed=0,
        points=POINTS,
    ).test
    stacked = torch.stack([torch.as_tensor(found[i].points[:POINTS], dtype=torch.float32) for i in range(6)])
    stacked -= stacked.mean(dim=1, keepdim=True)
    return stacked / stacked.norm(dim=-1).amax(dim=1)[:, None, None]


@pytest.fixture
def build() -> Build:
    """Build a model whose every tensor is random, so that none can be lost unnoticed."""

    def make(method: Method | None = None, **task: Any) -> PointMAE:
        torch.manual_seed(0)
        model = PointMAE(width=24, depth=2, heads=4, groups=16, group_size=8)
        if method is not None:
            method.attach(model)
        Classification(CLASSES, **task).attach(model)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.is_floating_point():
                    tensor.add_(0.1 * torch.randn_like(tensor))
        return model.eval()

    return make


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        recipe={
            "data": {"points": POINTS, "normalize": "unit_sphere"},
            "backbone": {"checkpoint": "embedded:point_mae_tiny"},
        },
        classes=CLASSES,
        backbone={},
        base_sha256="0" * 64,
        fresh=["cls_token", "cls_pos"],
        total_parameters=1,
        trainable_parameters=1,
        metrics={"test": {"accuracy": 91.25}},
        selection={"epoch": 7},
    )
