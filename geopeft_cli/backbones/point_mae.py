"""Point-MAE: a plain ViT over patches of a point cloud (Pang et al., ECCV 2022, arXiv 2203.06604)."""

from __future__ import annotations

from typing import ClassVar

from geopeft_cli.backbones.layouts import POINT_MAE
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.contracts import CheckpointLayout


class PointMAE(PatchTransformer):
    """The encoder of Point-MAE with a class token, which its pre-training has not."""

    name: ClassVar[str] = "point_mae"
    layout: ClassVar[CheckpointLayout] = POINT_MAE
