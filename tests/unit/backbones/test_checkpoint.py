"""From files to a backbone: key maps, sizes, loading that is strict both ways, heads, and the fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones.official_files import HEADS, finetuned, pretrained, tiny
from geopeft_cli.backbones.checkpoint import (
    SETTINGS_KEY,
    Checkpoint,
    fingerprint,
    infer_sizes,
    load_backbone,
    load_head,
    read_checkpoint,
)
from geopeft_cli.backbones.layouts import POINT_MAE
from geopeft_cli.contracts import official_state
from geopeft_cli.errors import CheckpointError, UsageError

Tensors = dict[str, Tensor]
TOKENS = ("cls_token", "cls_pos")


def read(tmp_path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Checkpoint:
    path = tmp_path / ("file.pth" if metadata is None else "file.safetensors")
    if metadata is None:
        torch.save({"base_model": tensors, "epoch": 1}, path)
    else:
        save_file(tensors, path, metadata)
    return read_checkpoint(str(path), "point_mae", POINT_MAE)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_a_pre_training_file(tmp_path: Path, prefix: str) -> None:
    checkpoint = read(tmp_path, pretrained(prefix))
    assert (checkpoint.identity.stage, checkpoint.identity.classes, checkpoint.unused) == ("pretrained", None, ())
    backbone = tiny(seed=1)
    before = {name: official_state(backbone)[name].clone() for name in TOKENS}
    assert load_backbone(backbone, checkpoint) == TOKENS
    expected = {name.removeprefix(f"{prefix}MAE_encoder."): tensor for name, tensor in pretrained(prefix).items()}
    for name, tensor in official_state(backbone).items():
        assert torch.equal(tensor, before[name] if name in TOKENS else expected[name])
    with pytest.raises(CheckpointError, match="has no head"):
        load_head(backbone, checkpoint)


@pytest.mark.parametrize("prefix", ["", "module.", "base_model.", "module.base_model."])
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_a_fine_tuned_file(tmp_path: Path, prefix: str, head: str) -> None:
    checkpoint = read(tmp_path, finetuned(5, head, prefix))
    assert (checkpoint.identity.stage, checkpoint.identity.classes) == ("classifier", 5)
    backbone = tiny(seed=1)
    assert load_backbone(backbone, checkpoint) == ()
    with_head = tiny(5, head, seed=2)
    load_head(with_head, checkpoint)
    expected = finetuned(5, head)
    for name, tensor in official_state(backbone).items():
        assert torch.equal(tensor, expected[name])
    head_tensors = {n: t for n, t in official_state(with_head).items() if n.startswith("cls_head_finetune.")}
    assert set(head_tensors) == set(checkpoint.head)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in head_tensors.items())


def test_only_a_leading_module_is_dropped(tmp_path: Path) -> None:
    tensors = pretrained()
    tensors["MAE_encoder.submodule.module.x"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"unexpected: submodule\.module\.x"):
        load_backbone(tiny(), read(tmp_path, tensors))


@pytest.mark.parametrize(("classes", "head"), [(4, "mlp"), (6, "mlp"), (5, "linear")])
def test_a_head_for_other_classes_or_of_another_layout(tmp_path: Path, classes: int, head: str) -> None:
    checkpoint = read(tmp_path, finetuned(5, "mlp"))
    model = tiny(classes, head)
    before = {name: tensor.clone() for name, tensor in official_state(model).items()}
    with pytest.raises(CheckpointError, match="has a head for 5 classes that does not fit") as caught:
        load_head(model, checkpoint)
    assert "head_from: fresh" in str(caught.value.hint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in official_state(model).items())


def test_a_damaged_head(tmp_path: Path) -> None:
    tensors = finetuned(5)
    tensors["cls_head_finetune.4.weight"][0, 0] = torch.nan
    checkpoint = read(tmp_path, tensors)
    assert load_backbone(tiny(), checkpoint) == ()  # a new head does not need it
    with pytest.raises(CheckpointError, match=r"not finite: cls_head_finetune\.4\.weight"):
        load_head(tiny(5), checkpoint)


def lose(tensors: Tensors) -> None:
    del tensors["MAE_encoder.blocks.blocks.1.mlp.fc2.bias"]


def lose_buffer(tensors: Tensors) -> None:
    del tensors["MAE_encoder.encoder.first_conv.1.running_var"]


def gain(tensors: Tensors) -> None:
    tensors["MAE_encoder.extra.weight"] = torch.zeros(2)


def gain_outside(tensors: Tensors) -> None:
    tensors["text_encoder.weight"] = torch.zeros(2)


def reshape(tensors: Tensors) -> None:
    tensors["MAE_encoder.pos_embed.0.weight"] = torch.zeros(3, 128)


def widen(tensors: Tensors) -> None:
    tensors["MAE_encoder.norm.weight"] = torch.zeros(1)


def poison(tensors: Tensors) -> None:
    tensors["MAE_encoder.blocks.blocks.0.attn.qkv.weight"][3, 4] = torch.nan


def blow_up(tensors: Tensors) -> None:
    tensors["MAE_encoder.encoder.second_conv.1.running_mean"][0] = -torch.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, r"missing: blocks\.blocks\.1\.mlp\.fc2\.bias$"),
        (lose_buffer, r"missing: encoder\.first_conv\.1\.running_var$"),
        (gain, r"unexpected: extra\.weight$"),
        (gain_outside, r"unexpected: text_encoder\.weight$"),
        (reshape, r"of another shape: pos_embed\.0\.weight \(3, 128\) instead of \(128, 3\)$"),
        (widen, r"of another shape: norm\.weight \(1,\) instead of \(32,\)$"),
        (poison, r"not finite: blocks\.blocks\.0\.attn\.qkv\.weight$"),
        (blow_up, r"not finite: encoder\.second_conv\.1\.running_mean$"),
    ],
)
def test_strict_both_ways(tmp_path: Path, spoil: Callable[[Tensors], None], message: str) -> None:
    tensors = pretrained()
    spoil(tensors)
    checkpoint, backbone = read(tmp_path, tensors), tiny(seed=1)
    before = {name: tensor.clone() for name, tensor in official_state(backbone).items()}
    with pytest.raises(CheckpointError, match=message):
        load_backbone(backbone, checkpoint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in official_state(backbone).items())


def test_all_problems_at_once_and_long_lists_are_cut(tmp_path: Path) -> None:
    tensors = {name: t for name, t in pretrained().items() if ".mlp." not in name}
    gain(tensors)
    poison(tensors)
    with pytest.raises(CheckpointError) as caught:
        load_backbone(tiny(), read(tmp_path, tensors))
    message = caught.value.message
    assert "and 4 more" in message
    assert [what in message for what in ("missing: ", "unexpected: ", "not finite: ")] == [True] * 3


def test_a_classifier_without_its_class_token_is_not_whole(tmp_path: Path) -> None:
    tensors = {name: t for name, t in finetuned().items() if name != "cls_token"}
    with pytest.raises(CheckpointError, match="missing: cls_token"):
        load_backbone(tiny(), read(tmp_path, tensors))


def test_part_segmentation_is_named(tmp_path: Path) -> None:
    tensors = {name: t for name, t in tiny().state_dict().items() if name not in TOKENS}
    tensors |= {"label_conv.0.weight": torch.zeros(64, 16, 1), "propagation_0.mlp_convs.0.weight": torch.zeros(4, 4, 1)}
    checkpoint = read(tmp_path, tensors)
    assert sorted(checkpoint.head) == ["label_conv.0.weight", "propagation_0.mlp_convs.0.weight"]
    with pytest.raises(
        CheckpointError, match=r"\(Point-MAE, part segmentation\) does not fit .* missing: cls_"
    ) as caught:
        load_backbone(tiny(), checkpoint)
    assert "task.name part_segmentation" in str(caught.value.hint)


def test_sizes_come_from_the_file(tmp_path: Path) -> None:
    checkpoint = read(tmp_path, pretrained(width=24, depth=3))
    assert (checkpoint.identity.width, checkpoint.identity.depth) == (24, 3)
    assert infer_sizes(checkpoint, {"heads": 4}) == {"width": 24, "depth": 3, "heads": 4}
    assert infer_sizes(checkpoint, {"heads": 4, "width": 24, "depth": 3})["depth"] == 3


@pytest.mark.parametrize(("name", "asked"), [("width", 48), ("depth", 12)])
def test_sizes_are_held_against_the_recipe(tmp_path: Path, name: str, asked: int) -> None:
    checkpoint = read(tmp_path, pretrained())
    with pytest.raises(CheckpointError, match=rf"has {name} \d+, the recipe asks for {asked}"):
        infer_sizes(checkpoint, {"heads": HEADS, name: asked})


@pytest.mark.parametrize(
    ("width", "recorded", "asked", "expected"),
    [(64, None, None, 1), (128, None, None, 2), (32, None, 4, 4), (32, 8, None, 8), (32, 8, 8, 8), (128, 4, None, 4)],
)
def test_heads(tmp_path: Path, width: int, recorded: int | None, asked: int | None, expected: int) -> None:
    metadata = {} if recorded is None else {SETTINGS_KEY: json.dumps({"heads": recorded})}
    checkpoint = read(tmp_path, pretrained(width=width), metadata)
    assert infer_sizes(checkpoint, {"heads": asked})["heads"] == expected


def test_heads_that_cannot_be_right(tmp_path: Path) -> None:
    checkpoint = read(tmp_path, pretrained())
    with pytest.raises(UsageError, match="width 32 does not tell the number of heads"):
        infer_sizes(checkpoint, {})
    with pytest.raises(UsageError, match="5 does not divide the width 32"):
        infer_sizes(checkpoint, {"heads": 5})
    recorded = read(tmp_path, pretrained(), {SETTINGS_KEY: '{"heads": 4}'})
    with pytest.raises(CheckpointError, match="has heads 4, the recipe asks for 8"):
        infer_sizes(recorded, {"heads": 8})


@pytest.mark.parametrize("record", ["{", "7", "null", '"text"'])
def test_a_damaged_record(tmp_path: Path, record: str) -> None:
    with pytest.raises(CheckpointError, match="its record geopeft_backbone is damaged"):
        read(tmp_path, pretrained(), {SETTINGS_KEY: record})


def test_half_precision_loads_as_float32(tmp_path: Path) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in pretrained().items()}
    backbone = tiny(seed=1)
    load_backbone(backbone, read(tmp_path, half))
    weight = official_state(backbone)["norm.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["MAE_encoder.norm.weight"].float())


def test_fingerprint_does_not_depend_on_the_container(tmp_path: Path) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in pretrained().items()}
    single = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    single = dict(reversed(single.items()))
    variants: list[tuple[Tensors, Any]] = [
        (half, None),
        (half, {}),
        (single, None),
        (single, {"note": "x"}),
        ({f"module.{name}": t for name, t in single.items()}, None),
        ({name: t.double() if t.is_floating_point() else t for name, t in single.items()}, {}),
        ({name: t for name, t in single.items() if not name.startswith("MAE_decoder.")}, None),
        ({name: t.mT.contiguous().mT if t.ndim == 2 else t for name, t in single.items()}, None),
    ]
    digests = {read(tmp_path, tensors, metadata).sha256 for tensors, metadata in variants}
    assert len(digests) == 1


def test_fingerprint_sees_one_value_one_name_and_one_shape() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.tensor(4)}
    variants = [
        tensors,
        {**tensors, "a": tensors["a"].clone().index_fill_(1, torch.tensor([2]), 1e-30)},
        {**tensors, "a": torch.zeros(3, 2)},
        {**tensors, "a": -torch.zeros(2, 3)},
        {**tensors, "b": torch.tensor(5)},
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"]},
        {},
    ]
    digests = [fingerprint(variant) for variant in variants]
    assert len(set(digests)) == len(variants)
    assert all(len(digest) == 64 for digest in digests)
    assert fingerprint({"b": torch.tensor(4), "a": torch.zeros(2, 3)}) == digests[0]
