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
    not_dense=("cls_token", "cls_pos"),
)

RECON = CheckpointLayout(
    prefix=POINT_MAE.prefix,
    ignored=(*POINT_MAE.ignored, "img_encoder.", "text_encoder.", "img_proj.", "text_proj.", "cls_proj."),
)
POINT_BERT = CheckpointLayout(
    prefix="transformer_q.",
    ignored=(
        "transformer_k.",
        "dvae.",
        "queue",
        "transformer_q.cls_head.",
        "transformer_q.lm_head.",
        "transformer_q.mask_token",
    ),
    sizes={"encoder_width": ("reduce_dim.weight", 1)},
)
ACT = CheckpointLayout(
    prefix="ACT_encoder.",
    ignored=(
        "ACT_decoder.",
        "decoder_pos_embed.",
        "dvae_tokenizer.",
        "proj_head.",
        "mask_token",
        "ACT_encoder.lm_head.",
        "ACT_encoder.cls_head.",
    ),
    not_dense=POINT_MAE.not_dense,
)
POINT_GPT = CheckpointLayout(
    prefix="GPT_Transformer.",
    ignored=(),
    fresh=("cls_token", "cls_pos", "blocks.cls_norm.weight", "blocks.cls_norm.bias"),
    sizes={
        "encoder_width": ("encoder.first_conv.0.weight", 0),
        "generator_channels": ("blocks.increase_dim.0.weight", 0),
    },
    optional=("generator_blocks.",),
    not_dense=("generator_blocks.", "blocks.cls_norm."),
    renamed=((".attn.in_proj.", ".attn.in_proj_"), ("cls_head_finetune.", "blocks.cls_head_finetune.")),
)

_NORMS = "h_encoder.encoder_norms."
_HIERARCHICAL = (
    _NORMS,
    "h_decoder.",
    "decoder_pos_embeds.",
    "decoder_norm.",
    "token_prop.",
    "mask_token",
)
_LAST_NORM = (("norm.", "h_encoder.encoder_norms.2."),)
POINT_M2AE = CheckpointLayout(
    prefix="",
    ignored=(*_HIERARCHICAL, "rec_head."),
    fresh=("norm.weight", "norm.bias"),
    dense=(_NORMS,),
    not_dense=("norm.",),
    pretrained=_LAST_NORM,
)
I2P_MAE = CheckpointLayout(
    prefix="",
    ignored=(*_HIERARCHICAL, "rec_head_2d.", "rec_head_3d.", "clip_model."),
    fresh=("norm.weight", "norm.bias"),
    pretrained=_LAST_NORM,
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

POINT_MAMBA = CheckpointLayout(prefix=POINT_MAE.prefix, ignored=POINT_MAE.ignored, heads=False)
_SCENE_HEADS = ("mask_head.", "unmask_head.")
SONATA = CheckpointLayout(
    prefix="",
    ignored=_SCENE_HEADS,
    fresh=("embedding.mask_token", "dec."),
    head=("seg_head.",),
    optional=("embedding.mask_token", "dec."),
    heads=False,
    head_means_whole=False,
    sizes={"in_channels": ("embedding.stem.linear.weight", 1)},
)
PTV3 = CheckpointLayout(
    prefix="",
    ignored=(),
    fresh=("dec.",),
    head=("seg_head.",),
    optional=("dec.",),
    heads=False,
    head_means_whole=False,
    sizes={"in_channels": ("embedding.stem.conv.weight", 4)},
)

# The first rule whose every pattern is found in some tensor name says what the file is.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("recon", (r"blocks\.blocks\.0\.attn_contrast\.",)),
    ("act", (r"^propagation_0_cls\.",)),
    ("i2p_mae", (r"^h_encoder\.", r"^(clip_model|rec_head_2d)\.")),
    ("point_m2ae", (r"^h_encoder\.",)),
    ("point_m2ae_early", (r"^MAE_encoder\.encoders\.\d",)),
    ("point_gpt", (r"(^|\.)generator_blocks\.|(^|\.)blocks\.sos$",)),
    ("point_bert", (r"^transformer_q\.",)),
    ("point_bert", (r"^reduce_dim\.", r"^blocks\.blocks\.0\.attn\.qkv\.")),
    ("act", (r"^ACT_encoder\.",)),
    ("point_mamba", (r"OrderScale_gamma_1$", r"\.mixer\.")),
    ("point_mamba_early", (r"(^|\.)blocks\.layers\.0\.mixer\.",)),
    ("mamba3d", (r"blocks\.blocks\.0\.mixer\.",)),
    ("ptv3_ppt", (r"^embedding_table\.|(^|\.)enc\.enc0\.block0\.norm1\.0\.norm\.\d",)),
    ("scene_lora", (r"(^|\.)enc\.base_model\.model\.enc0\.",)),
    ("ptv3", (r"(^|\.)enc\.enc0\.", r"(^|\.)embedding\.stem\.conv\.")),
    ("sonata", (r"(^|\.)enc\.enc0\.",)),
    ("scene_head", (r"^(backbone\.)?seg_head\.",)),
    (
        "point_mae",
        (r"^(MAE_encoder\.)?blocks\.blocks\.0\.attn\.qkv\.weight$", r"^(MAE_encoder\.)?encoder\.first_conv\."),
    ),
)

# Networks that differ in their pre-training alone: nothing in a fine-tuned file tells the first from the second.
_ALIKE = {"act": "point_mae", "i2p_mae": "point_m2ae"}
_PRE_TRAINING = ("MAE_encoder.", "mask_token", "h_decoder.", "rec_head.")

_TITLES = {
    "recon": "ReCon",
    "i2p_mae": "I2P-MAE",
    "point_m2ae": "Point-M2AE",
    "point_m2ae_early": "an early upload of Point-M2AE, whose tensors have other names",
    "point_gpt": "PointGPT",
    "point_bert": "Point-BERT",
    "act": "ACT",
    "point_mamba": "PointMamba",
    "point_mamba_early": "the first release of PointMamba, a network without scales of its orders",
    "mamba3d": "Mamba3D",
    "ptv3": "PTv3",
    "ptv3_ppt": "PTv3-PPT, whose norms depend on the data set",
    "scene_lora": "a LoRA run of Pointcept",
    "scene_head": "a segmentation head without its network",
    "sonata": "Sonata",
    "point_mae": "Point-MAE",
}

_LICENSES = {"sonata": "CC-BY-NC-4.0 for the weights that the authors released, and what is made of them"}

_FIRST_NORMS = ("blocks.blocks.0.norm1.weight", "blocks.layers.0.ln_1.weight", "blocks.layers.0.norm.weight")
_HEADS = ("cls_head_finetune.", "blocks.cls_head_finetune.", "seg_head.")


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is, from its content.

    Attributes:
        backbone: recipe name, or ``None`` when no rule fits.
        title: the network's own name, for messages.
        stage: ``pretrained``, ``classifier``, ``voxel_classifier``, ``part_segmentation``, ``scene_segmentation`` or
            ``unknown``.
        width, depth: read from the shapes of a plain ViT, or of the last stage and of all, else ``None``.
        classes: outputs of the head, if there is one.
        stages: width and depth of every stage of a network with stages; a depth of 0 where blocks are missing.
    """

    backbone: str | None
    title: str
    stage: str
    width: int | None = None
    depth: int | None = None
    classes: int | None = None
    stages: tuple[tuple[int, int], ...] = ()

    @property
    def license(self) -> str:
        """Of the network's released weights, where it restricts their use; else empty."""
        return _LICENSES.get(self.backbone or "", "")


def strip_wrappers(name: str) -> str:
    """A tensor name without the leading ``module.`` (repeated) and ``base_model.`` that training scripts add."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name.removeprefix("base_model.")


_TRAINED = re.compile(r"^((?:student|teacher)\.)?backbone\.(?:enc|embedding)\.")


def of_branch(tensors: Mapping[str, Tensor], branch: str = "student") -> dict[str, Tensor]:
    """What a file of Pointcept's trainer holds of a scene network, without ``student.`` and ``backbone.``.

    Of a student and a teacher one is taken, and nothing of the other; other files stay as they are.
    """
    marks = [match[1] for match in map(_TRAINED.match, tensors) if match]
    if not marks:
        return dict(tensors)
    own = f"{branch}." if any(marks) else ""
    named = {name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(own)}
    return {name.removeprefix("backbone."): tensor for name, tensor in named.items()}


def identify(tensors: Mapping[str, Tensor], expected: str = "") -> Identity:
    """Say which network a set of tensors (names after :func:`strip_wrappers`) belongs to.

    A fine-tuned file that may be of two networks is of the one that is ``expected``.
    """
    kinds = (kind for kind, patterns in _KINDS if all(any(re.search(p, n) for n in tensors) for p in patterns))
    backbone = next(kinds, None)
    if backbone is None:
        return Identity(None, "an unknown network", "unknown")
    if backbone == _ALIKE.get(expected) and not any(name.startswith(_PRE_TRAINING) for name in tensors):
        backbone = expected
    trunk = [name for name in tensors if "decoder" not in name.lower()]
    blocks = [re.search(r"(?:^|\.)blocks\.(?:blocks|layers)\.(\d+)\.", name) for name in trunk]
    depth = max((int(match[1]) + 1 for match in blocks if match), default=None)
    norm = next((tensors[name] for name in trunk if name.endswith(_FIRST_NORMS)), None)
    stage, classes = _stage(tensors)
    stages = _stages(tensors)
    if stages:
        width, depth = stages[-1][0], sum(blocks for _, blocks in stages)
        return Identity(backbone, _TITLES[backbone], stage, width, depth, classes, stages)
    return Identity(backbone, _TITLES[backbone], stage, None if norm is None else norm.numel(), depth, classes)


def _stage(tensors: Mapping[str, Tensor]) -> tuple[str, int | None]:
    """What the file's head is for, and how many classes it tells apart."""
    head = [(name, t) for name, t in tensors.items() if name.startswith(_HEADS) and t.ndim == 2]
    if head:
        name, weight = head[-1]
        return "voxel_classifier" if name.startswith("seg_head.") else "classifier", int(weight.shape[0])
    if not any(name.startswith("propagation") for name in tensors):
        return "pretrained", None
    layers = sorted(name for name in tensors if re.fullmatch(r"convs?\d(_cls)?\.weight", name))
    classes = int(tensors[layers[-1]].shape[0]) if layers else None
    told = "label_conv.0.weight" in tensors or "dgcnn_pro_1.layer1.0.weight" in tensors
    return "part_segmentation" if told else "scene_segmentation", classes


_STAGE_NORM = re.compile(
    r"^h_encoder\.encoder_blocks\.(\d+)\.blocks\.\d+\.norm1\.weight$|^enc\.enc(\d+)\.block\d+\.norm1\.0\.weight$"
)


def _stages(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """Width and depth of every stage of a network with stages."""
    blocks: dict[int, list[int]] = {}
    for name, tensor in tensors.items():
        match = _STAGE_NORM.search(name)
        if match:
            blocks.setdefault(int(match[1] or match[2]), []).append(tensor.numel())
    found = (blocks.get(stage, [0]) for stage in range(max(blocks, default=-1) + 1))
    return tuple((widths[0], len(widths) if widths[0] else 0) for widths in found)
