from __future__ import annotations

import pytest
import torch

from geopeft_cli.backbones.point_mae import PointMAE


@pytest.fixture
def backbone() -> PointMAE:
    torch.manual_seed(0)
    return PointMAE(width=32, depth=2, heads=2, groups=4, group_size=4)
