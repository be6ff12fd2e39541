"""A checkpoint of something else is named as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbones.official_files import finetuned, pretrained
from geopeft_cli.backbones.checkpoint import infer_sizes, read_checkpoint
from geopeft_cli.backbones.layouts import POINT_MAE, identify, strip_wrappers
from geopeft_cli.errors import CheckpointError

VIT = ("blocks.blocks.0.norm1.weight", "blocks.blocks.0.attn.qkv.weight", "blocks.blocks.0.mlp.fc1.weight")
ENCODER = ("encoder.first_conv.0.weight", "encoder.second_conv.0.weight", "pos_embed.0.weight", "norm.weight")


def under(prefix: str, *names: str) -> list[str]:
    return [prefix + name for name in names]


FOREIGN = {
    "Point-BERT": [
        [*under("transformer_q.", *VIT, *ENCODER, "reduce_dim.weight"), "transformer_k.norm.weight", "dvae.x", "queue"],
        [*VIT, *ENCODER, "reduce_dim.weight", "cls_token", "cls_head_finetune.0.weight"],
    ],
    "ReCon": [
        [
            *under("MAE_encoder.", *VIT, *ENCODER, "blocks.blocks.0.attn_contrast.q.weight", "img_token"),
            "MAE_decoder.blocks.0.norm1.weight",
            "img_encoder.x",
        ],
        [*VIT, *ENCODER, "blocks.blocks.0.attn_contrast.q.weight", "cls_head_finetune.0.weight"],
    ],
    "ACT": [[*under("ACT_encoder.", *VIT, *ENCODER), "dvae_tokenizer.x", "ACT_decoder.blocks.0.norm1.weight"]],
    "I2P-MAE": [["h_encoder.encoder_blocks.0.blocks.0.attn.qkv.weight", "rec_head_2d.weight", "clip_model.x"]],
    "Point-M2AE": [["h_encoder.encoder_blocks.0.blocks.0.attn.qkv.weight", "h_decoder.0.blocks.0.norm1.weight"]],
    "PointGPT": [
        ["GPT_Transformer.blocks.sos", "GPT_Transformer.blocks.layers.0.attn.in_proj_weight"],
        ["blocks.sos", "blocks.layers.0.mlp.0.weight", "cls_head_finetune.0.weight"],
        ["generator_blocks.sos", "encoder.first_conv.0.weight"],
    ],
    "Mamba3D": [
        under("MAE_encoder.", "blocks.blocks.0.mixer.in_proj.weight", "encoder.first_conv.0.weight"),
        ["blocks.blocks.0.mixer.in_proj.weight", "encoder.first_conv.0.weight", "cls_head_finetune.0.weight"],
    ],
    "PointMamba": [
        under("MAE_encoder.", "blocks.layers.0.mixer.in_proj.weight", "OrderScale_gamma_1", "pos_embed.0.weight"),
        ["blocks.layers.0.mixer.in_proj.weight", "OrderScale_gamma_1", "encoder.first_conv.0.weight"],
    ],
    "PTv3": [["backbone.embedding.stem.conv.weight", "backbone.enc.enc0.block0.attn.qkv.weight", "seg_head.weight"]],
    "Sonata": [
        ["embedding.stem.linear.weight", "enc.enc0.block0.attn.qkv.weight"],
        ["backbone.embedding.stem.linear.weight", "backbone.enc.enc0.block0.attn.qkv.weight", "seg_head.weight"],
    ],
    "an unknown network": [["layer1.0.conv1.weight", "fc.weight"], ["weight"]],
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("title", sorted(FOREIGN))
def test_foreign_files_are_named(tmp_path: Path, title: str, prefix: str) -> None:
    for number, names in enumerate(FOREIGN[title]):
        path = tmp_path / f"{number}.pth"
        torch.save({"base_model": {prefix + name: torch.ones(2, 2) for name in names}}, path)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(str(path), "point_mae", POINT_MAE)
        assert caught.value.message.endswith(f"no key matches point_mae; it looks like {title}")
        assert sorted(names)[0] in str(caught.value.hint)


def test_our_own_are_recognized() -> None:
    for tensors, stage, classes in ((pretrained(), "pretrained", None), (finetuned(7), "classifier", 7)):
        identity = identify(tensors)
        assert (identity.backbone, identity.title, identity.stage) == ("point_mae", "Point-MAE", stage)
        assert (identity.width, identity.depth, identity.classes) == (32, 2, classes)
    linear = identify(finetuned(9, "linear"))
    assert (linear.stage, linear.classes) == ("classifier", 9)


def test_the_decoder_does_not_count_as_depth() -> None:
    tensors = pretrained() | {"MAE_decoder.blocks.blocks.9.norm1.weight": torch.ones(32)}
    assert identify(tensors).depth == 2


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("module.a", "a"),
        ("module.module.a", "a"),
        ("base_model.a", "a"),
        ("module.base_model.a", "a"),
        ("submodule.a", "submodule.a"),
        ("a.module.b", "a.module.b"),
        ("a.base_model.b", "a.base_model.b"),
        ("module", "module"),
    ],
)
def test_wrappers_are_stripped_where_they_lead(name: str, stripped: str) -> None:
    assert strip_wrappers(name) == stripped


@pytest.mark.parametrize("norm", [torch.tensor(1.0), torch.ones(0), torch.ones(3, 5)])
def test_odd_shapes_do_not_surprise(tmp_path: Path, norm: torch.Tensor) -> None:
    tensors = pretrained() | {"MAE_encoder.blocks.blocks.0.norm1.weight": norm}
    torch.save(tensors, tmp_path / "odd.pth")
    checkpoint = read_checkpoint(str(tmp_path / "odd.pth"), "point_mae", POINT_MAE)
    with pytest.raises(CheckpointError, match="has width"):
        infer_sizes(checkpoint, {"width": 32, "heads": 2})


def test_a_file_without_blocks_is_not_whole(tmp_path: Path) -> None:
    tensors = {name: t for name, t in pretrained().items() if "norm1" not in name}
    torch.save(tensors, tmp_path / "part.pth")
    checkpoint = read_checkpoint(str(tmp_path / "part.pth"), "point_mae", POINT_MAE)
    with pytest.raises(CheckpointError, match="holds no transformer blocks"):
        infer_sizes(checkpoint, {})
