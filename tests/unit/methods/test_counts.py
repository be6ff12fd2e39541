"""Trainable parameters on the full-size Point-MAE, as exact integers."""

from __future__ import annotations

import pytest

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import BLOCK_ROLES, Method, official_parameters
from geopeft_cli.methods.adapter import Adapter
from geopeft_cli.methods.bitfit import BitFit
from geopeft_cli.methods.full import FullFineTuning
from geopeft_cli.methods.linear_probe import LinearProbe
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import Monarch, MoST
from geopeft_cli.methods.prompt import Prompt
from geopeft_cli.tasks.classification import Classification

HEAD, TOKENS = 267_535, 768
QKV_PROJ = ("attention_in", "attention_out")


def attached(method: Method) -> PointMAE:
    backbone = PointMAE()
    backbone.requires_grad_(False)
    method.attach(backbone)
    return backbone


def count(backbone: PointMAE) -> int:
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (LinearProbe(), 0),
        (BitFit(), 39_680),
        (BitFit(scope="blocks"), 36_864),
        (LoRA(), 589_824),
        (LoRA(targets=("qkv",)), 147_456),
        (LoRA(rank=4, targets=("attn.qkv", "attn.proj")), 4 * 12 * (4 * 384 + 2 * 384)),
        (Adapter(), 12 * 2 * (2 * 384 * 96 + 96 + 384)),
        (Adapter(rank=64, places="mlp"), 863_503 - HEAD - TOKENS),
        (Prompt(), 12 * 2 * 384 * 384),
        (Prompt(length=10), 92_160),
        (MoST(), 1_990_656),
        (MoST(blocks=16), 995_328),
        (MoST(blocks=32), 497_664),
        (MoST(targets=("qkv", "fc2")), 1_990_656),
        (MoST(bias=True), 1_990_656 + 32_256),
        (MoST(bias=True, targets=("qkv", "fc2")), 1_990_656 + 18_432),
        (MoST(targets=QKV_PROJ), 1_594_639 - HEAD),
        (MoST(blocks=16, targets=QKV_PROJ), 931_087 - HEAD),
        (MoST(blocks=32, targets=QKV_PROJ), 599_311 - HEAD),
        (MoST(targets=BLOCK_ROLES), 3_806_479 - HEAD),
        (MoST(blocks=16, targets=("all",)), 2_037_007 - HEAD),
        (MoST(blocks=32, targets=("all",)), 1_152_271 - HEAD),
        (Monarch(), 1_990_656),
        (MoST(variant="released"), 12 * (384 * 384 * 2 // 8 + 384 + 2 * 384)),
        (MoST(variant="released", blocks=32), 12 * (384 * 384 * 2 // 32 + 384 + 2 * 384)),
    ],
    ids=lambda value: f"{value.name}-{list(value.settings().values())}" if isinstance(value, Method) else str(value),
)
def test_parameters_of_the_method(method: Method, expected: int) -> None:
    assert count(attached(method)) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [(LinearProbe(), 268_303), (BitFit(), 307_983), (LoRA(), 858_127), (MoST(), 2_258_959)],
    ids=lambda value: value.name if isinstance(value, Method) else str(value),
)
def test_with_head_and_tokens(method: Method, expected: int) -> None:
    backbone = attached(method)
    Classification([str(i) for i in range(15)]).attach(backbone)
    assert count(backbone) - count_of_method(method) == HEAD
    for name in backbone.token_names:
        backbone.get_parameter(name).requires_grad_(True)
    assert count(backbone) == expected


def count_of_method(method: Method) -> int:
    return count(attached(method))


def test_full_fine_tuning_trains_everything() -> None:
    backbone = attached(FullFineTuning())
    Classification([str(i) for i in range(15)]).attach(backbone)
    assert count(backbone) == sum(p.numel() for p in backbone.parameters()) == 22_093_327


def test_bitfit_trains_the_biases_that_exist_and_nothing_else() -> None:
    everything = {name: p for name, p in official_parameters(attached(BitFit())).items() if p.requires_grad}
    assert all(name.endswith(".bias") for name in everything)
    assert not any("qkv" in name for name in everything)
    assert {name.partition(".")[0] for name in everything} == {"encoder", "pos_embed", "blocks", "norm"}
    blocks = {name for name, p in official_parameters(attached(BitFit(scope="blocks"))).items() if p.requires_grad}
    assert blocks == {name for name in everything if name.startswith("blocks.")}


@pytest.mark.parametrize("name", ["full", "bitfit", "lora", "adapter", "prompt", "monarch", "most"])
def test_tokens_train_by_default(name: str) -> None:
    from geopeft_cli.methods import method_class

    assert method_class(name).trains_tokens == "always"
    assert LinearProbe.trains_tokens == "fresh"
