"""Point-BERT: a plain ViT that predicts discrete tokens of masked patches (Yu et al., CVPR 2022, arXiv 2111.14819)."""

from __future__ import annotations

from typing import ClassVar

from geopeft_cli.backbones.layouts import POINT_BERT
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.contracts import CheckpointLayout


class PointBERT(PatchTransformer):
    """The encoder of Point-BERT, whose patches have fewer channels than its tokens."""

    name: ClassVar[str] = "point_bert"
    layout: ClassVar[CheckpointLayout] = POINT_BERT
    head_layout: ClassVar[str] = "mlp2"
    point_head: ClassVar[str | None] = "nested"
    patch_width: ClassVar[int | None] = 256
    leading_if_dense: ClassVar[tuple[str, ...]] = ("cls",)
