"""LoRA: its formula on both kinds of dense layers, how it starts, and how it folds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.errors import MergeError, UsageError
from geopeft_cli.methods.dense import Dense
from geopeft_cli.methods.lora import LoRA, LowRankUpdate


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def moved(base: Dense, rank: int = 3, scale: float = 0.75, dropout: float = 0.0) -> LowRankUpdate:
    layer = LowRankUpdate(base, rank, scale, dropout)
    nn.init.normal_(layer.lora_B.weight)
    return layer


def test_formula_on_a_linear_layer() -> None:
    layer, x = moved(nn.Linear(10, 7)), torch.randn(2, 5, 10)
    a, b = layer.lora_A.weight, layer.lora_B.weight
    assert (a.shape, b.shape) == ((3, 10), (7, 3))
    assert isinstance(layer.base, nn.Linear)
    expected = x @ layer.base.weight.T + layer.base.bias + 0.75 * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


def test_formula_on_a_convolution_of_kernel_1() -> None:
    layer, x = moved(nn.Conv1d(10, 7, 1)), torch.randn(2, 10, 5)
    a, b = layer.lora_A.weight, layer.lora_B.weight
    assert (a.shape, b.shape) == ((3, 10, 1), (7, 3, 1))
    update = torch.einsum("or,ri,bin->bon", b[:, :, 0], a[:, :, 0], x)
    torch.testing.assert_close(layer(x), layer.base(x) + 0.75 * update, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 6.0 / 4), (True, 6.0 / 2)])
def test_scale(rslora: bool, scale: float) -> None:
    backbone = PointMAE(width=32, depth=1, heads=2)
    LoRA(rank=4, alpha=6.0, rslora=rslora, dropout=0.25, targets=("fc2",)).attach(backbone)
    layer = backbone.get_submodule("blocks.blocks.0.mlp.fc2")
    assert isinstance(layer, LowRankUpdate)
    assert layer.scale == scale
    assert layer.dropout.p == 0.25
    assert layer.lora_A.weight.shape == (4, 128)


def test_only_the_targets_are_wrapped() -> None:
    backbone = PointMAE(width=32, depth=2, heads=2)
    LoRA(targets=("attention_in", "blocks.blocks.1.mlp.fc2", "position")).attach(backbone)
    wrapped = {name for name, module in backbone.named_modules() if isinstance(module, LowRankUpdate)}
    assert wrapped == {
        "blocks.blocks.0.attn.qkv",
        "blocks.blocks.1.attn.qkv",
        "blocks.blocks.1.mlp.fc2",
        "pos_embed.0",
        "pos_embed.2",
    }


def test_a_target_that_matches_nothing_is_named_with_the_possible_ones() -> None:
    with pytest.raises(UsageError) as caught:
        LoRA(targets=("qkv", "attn.kqv")).attach(PointMAE(width=32, depth=1, heads=2))
    assert "'attn.kqv' matches no layer of point_mae" in caught.value.message
    assert "attn.qkv" in str(caught.value.hint)


def test_a_second_method_at_the_same_layer_is_refused() -> None:
    backbone = PointMAE(width=32, depth=1, heads=2)
    LoRA(targets=("qkv",)).attach(backbone)
    with pytest.raises(UsageError, match=r"blocks\.blocks\.0\.attn\.qkv is a LowRankUpdate"):
        LoRA(targets=("qkv",)).attach(backbone)


@pytest.mark.parametrize("base", [nn.Linear(64, 7), nn.Conv1d(64, 7, 1)], ids=["linear", "convolution"])
def test_start(base: Dense) -> None:
    layer = LowRankUpdate(base, 16, 1.0, 0.0)
    assert not layer.lora_B.weight.any()
    bound = 1 / math.sqrt(64)
    largest = float(layer.lora_A.weight.detach().abs().max())
    assert 0.95 * bound < largest <= bound
    assert abs(float(layer.lora_A.weight.detach().std()) / (bound / math.sqrt(3)) - 1) < 0.1
    assert layer.lora_A.bias is None
    assert layer.lora_B.bias is None
    x = torch.randn(64, 64, 64)
    assert torch.equal(layer(x), base(x))


def test_dropout_on_the_input_of_the_update_in_training_only() -> None:
    layer, x = moved(nn.Linear(10, 7), dropout=0.5), torch.randn(4, 10)

    def formula(dropped: Tensor) -> Tensor:
        return layer.base(x) + layer.lora_B(0.75 * layer.lora_A(dropped))  # type: ignore[no-any-return]

    layer.train()
    torch.manual_seed(1)
    trained = layer(x)
    torch.manual_seed(1)
    assert torch.equal(trained, formula(F.dropout(x, 0.5)))
    layer.eval()
    assert torch.equal(layer(x), formula(x))
    assert not torch.equal(trained, layer(x))


@pytest.mark.parametrize("base", [nn.Linear(10, 7, bias=False), nn.Conv1d(10, 7, 1)], ids=["linear", "convolution"])
def test_fold_is_formed_in_float64(base: Dense) -> None:
    layer = moved(base, scale=1 / 3)
    before = base.weight.clone()
    a, b = (w.weight.flatten(1).double() for w in (layer.lora_A, layer.lora_B))
    delta = layer.dense_update("exact").weight
    assert delta.dtype == torch.float64
    assert torch.equal(delta, (b @ a) * (1 / 3))
    folded = layer.folded("exact")
    assert type(folded) is type(base)
    assert torch.equal(folded.weight, (before.double() + delta.reshape(before.shape)).float())
    assert torch.equal(base.weight, before)
    x = torch.randn(3, 10, 4) if isinstance(base, nn.Conv1d) else torch.randn(3, 4, 10)
    torch.testing.assert_close(folded(x), layer(x), atol=1e-5, rtol=1e-5)


def test_only_the_exact_mode_is_offered() -> None:
    layer = moved(nn.Linear(4, 4))
    assert (layer.exact_modes, layer.approximate_modes) == (("exact",), ())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_damaged_update_does_not_fold(value: float) -> None:
    layer = moved(nn.Linear(4, 4))
    with torch.no_grad():
        layer.lora_A.weight[0, 0] = value
    with pytest.raises(MergeError, match="not finite"):
        layer.folded("exact")
