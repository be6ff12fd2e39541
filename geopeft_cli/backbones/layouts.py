"""What is inside the checkpoints of the field, by their tensor names: which network a file holds and how keys map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from geopeft_cli.contracts import CheckpointLayout

POINT_MAE = CheckpointLayout(
    prefix="MAE_encoder.",
    ignored=("MAE_decoder.", "decoder_pos_embed.", "increase_dim.", "mask_token"),
    fresh=("cls_token", "cls_pos"),
)

MAMBA3D = CheckpointLayout(
    prefix="MAE_encoder.",
    ignored=(
        "MAE_decoder.",
        "decoder_pos_embed.",
        "increase_dim.",
        "mask_token",
        "MAE_encoder.cls_token_pt",
        "MAE_encoder.cls_pos_pt",
    ),
    fresh=("cls_token", "cls_pos"),
    heads=False,
)

# The first rule whose every pattern is found in some tensor name says what the file is.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("recon", (r"blocks\.blocks\.0\.attn_contrast\.",)),
    ("i2p_mae", (r"^h_encoder\.", r"^(clip_model|rec_head_2d)\.")),
    ("point_m2ae", (r"^h_encoder\.",)),
    ("point_gpt", (r"(^|\.)generator_blocks\.|(^|\.)blocks\.sos$",)),
    ("point_bert", (r"^transformer_q\.",)),
    ("point_bert", (r"^reduce_dim\.", r"^blocks\.blocks\.0\.attn\.qkv\.")),
    ("act", (r"^ACT_encoder\.",)),
    ("point_mamba", (r"OrderScale_gamma_1$", r"\.mixer\.")),
    ("mamba3d", (r"blocks\.blocks\.0\.mixer\.",)),
    ("ptv3", (r"(^|\.)seg_head\.", r"(^|\.)enc\.enc0\.")),
    ("sonata", (r"(^|\.)enc\.enc0\.",)),
    (
        "point_mae",
        (r"^(MAE_encoder\.)?blocks\.blocks\.0\.attn\.qkv\.weight$", r"^(MAE_encoder\.)?encoder\.first_conv\."),
    ),
)

_TITLES = {
    "recon": "ReCon",
    "i2p_mae": "I2P-MAE",
    "point_m2ae": "Point-M2AE",
    "point_gpt": "PointGPT",
    "point_bert": "Point-BERT",
    "act": "ACT",
    "point_mamba": "PointMamba",
    "mamba3d": "Mamba3D",
    "ptv3": "PTv3",
    "sonata": "Sonata",
    "point_mae": "Point-MAE",
}


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is, from its content.

    Attributes:
        backbone: recipe name, or ``None`` when no rule fits.
        title: the network's own name, for messages.
        stage: ``pretrained``, ``classifier``, ``part_segmentation`` or ``unknown``.
        width, depth: read from the shapes of a plain ViT, else ``None``.
        classes: outputs of the classification head, if there is one.
    """

    backbone: str | None
    title: str
    stage: str
    width: int | None = None
    depth: int | None = None
    classes: int | None = None


def strip_wrappers(name: str) -> str:
    """A tensor name without the leading ``module.`` (repeated) and ``base_model.`` that training scripts add."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name.removeprefix("base_model.")


def identify(tensors: Mapping[str, Tensor]) -> Identity:
    """Say which network a set of tensors (names after :func:`strip_wrappers`) belongs to."""
    kinds = (kind for kind, patterns in _KINDS if all(any(re.search(p, n) for n in tensors) for p in patterns))
    backbone = next(kinds, None)
    if backbone is None:
        return Identity(None, "an unknown network", "unknown")
    blocks = [re.search(r"(?:^|\.)blocks\.blocks\.(\d+)\.", name) for name in tensors if "decoder" not in name.lower()]
    depth = max((int(match[1]) + 1 for match in blocks if match), default=None)
    norm = next((tensor for name, tensor in tensors.items() if name.endswith("blocks.blocks.0.norm1.weight")), None)
    head = [(name, t) for name, t in tensors.items() if name.startswith("cls_head_finetune.") and t.ndim == 2]
    if head:
        stage, classes = "classifier", int(head[-1][1].shape[0])
    elif any(name.startswith(("propagation_0", "label_conv.")) for name in tensors):
        stage, classes = "part_segmentation", None
    else:
        stage, classes = "pretrained", None
    return Identity(backbone, _TITLES[backbone], stage, None if norm is None else norm.numel(), depth, classes)
