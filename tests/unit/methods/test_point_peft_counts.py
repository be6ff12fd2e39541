"""Trainable parameters of Point-PEFT on the full-size networks, as exact integers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from geopeft_cli.backbones.point_bert import PointBERT
from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.backbones.point_m2ae import PointM2AE
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.recon import ReCon
from geopeft_cli.contracts import Backbone, official_parameters
from geopeft_cli.methods.point_peft import PointPEFT
from geopeft_cli.tasks.classification import Classification

SCAN = {"prompts": 10, "prompted_blocks": 6}
MODELNET = {"prompts": 16}
STAGES = {"prompts": 16, "propagate": 0.2}
TOTAL_OF_THE_RELEASE = 22_560_409


def attached(kind: type[Backbone], classes: int, settings: dict[str, Any]) -> Backbone:
    with torch.device("meta"):  # only shapes matter
        model = kind(**({"pooling": "concat"} if kind is PointM2AE else {}))
        model.requires_grad_(False)
        PointPEFT(**settings).attach(model)
        Classification([str(i) for i in range(classes)]).attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    return model


@pytest.mark.parametrize(
    ("kind", "classes", "settings", "per_sample", "aligned", "released"),
    [
        (PointMAE, 15, SCAN, 710_749, 710_719, 773_017),
        (PointMAE, 40, MODELNET, 807_096, 807_048, 807_108),
        (PointM2AE, 15, STAGES, 661_046, 660_998, 661_046),
        (PointM2AE, 40, STAGES, 667_471, 667_423, 667_471),
        (PointBERT, 15, SCAN, 643_933, 643_903, None),
        (PointBERT, 40, SCAN, 650_358, 650_328, None),
    ],
    ids=["Point-MAE, scan", "Point-MAE, ModelNet40", "Point-M2AE, scan", "Point-M2AE, ModelNet40", "Point-BERT, scan",
         "Point-BERT, ModelNet40"],
)  # fmt: skip
def test_what_trains(
    kind: type[Backbone], classes: int, settings: dict[str, Any], per_sample: int, aligned: int, released: int | None
) -> None:
    expected = {"per_sample": per_sample, "aligned": aligned, "released": released}
    for variant in (name for name, count in expected.items() if count is not None):
        model = attached(kind, classes, {**settings, "variant": variant})
        trainable = {name: p.numel() for name, p in official_parameters(model).items() if p.requires_grad}
        assert sum(trainable.values()) == expected[variant], variant
        assert not any(name.startswith(("encoder.", "pos_embed.", "reduce_dim.")) for name in trainable)
        if variant == "released" and settings is SCAN:
            assert sum(p.numel() for p in model.parameters()) == TOTAL_OF_THE_RELEASE


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (PointMAE, SCAN, 442_446),
        (PointBERT, SCAN, 443_214),
        (ReCon, SCAN, 480_078),
        (PointGPT, SCAN, 457_038),
        (PointM2AE, STAGES, 394_087),
    ],
)
def test_what_trains_beside_a_head_for_points(kind: type[Backbone], settings: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = kind(dense=True).requires_grad_(False)
        PointPEFT(**settings).attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_what_the_release_declares_and_never_uses() -> None:
    """Prompts and their bottlenecks of blocks 6 to 11, and all gates: 62,268."""
    used = official_parameters(attached(PointMAE, 15, SCAN))
    declared = official_parameters(attached(PointMAE, 15, {**SCAN, "variant": "released"}))
    dead = {name: declared[name].numel() for name in declared.keys() - used.keys()}
    assert sum(dead.values()) == 62_268
    assert used.keys() <= declared.keys()
    assert {name.split(".")[3] for name in dead} == {"prompt_embeddings", "cp_adapter", "ad_gate"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bank": False}, 710_749 - 6 * 6_536),
        ({"adapter": False}, 36_864 + 768 + 768 + 267_535 + 6 * (3_840 + 6_536)),
        ({"prompt": False}, 710_749 - 30 - 6 * (3_840 + 6_536)),
        ({"prompt": False, "adapter": False}, 36_864 + 768 + 768 + 267_535),
        ({"init": "identity"}, 710_749 + 12),
    ],
    ids=str,
)
def test_parts_alone(settings: dict[str, Any], expected: int) -> None:
    model = attached(PointMAE, 15, {**SCAN, **settings})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
