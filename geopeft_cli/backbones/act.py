"""ACT: the network of Point-MAE, taught by those of other modalities (Dong et al., ICLR 2023, arXiv 2212.08320)."""

from __future__ import annotations

from typing import ClassVar

from geopeft_cli.backbones.layouts import ACT as LAYOUT
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.contracts import CheckpointLayout


class ACT(PatchTransformer):
    """The encoder of ACT. Unlike Point-MAE's, its class token comes from the pre-training."""

    name: ClassVar[str] = "act"
    layout: ClassVar[CheckpointLayout] = LAYOUT
    point_head: ClassVar[str | None] = "tokens_cls"
