"""Prefix tuning: every kind of attention against a loop over tokens, counts on a scene network, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.scenes import alone, network, scenes
from geopeft_cli.adapters.merge import foldable_layers
from geopeft_cli.backbones.gpt import CausalAttention
from geopeft_cli.backbones.point_m2ae import LocalAttention, near
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.point_mamba import PointMamba
from geopeft_cli.backbones.scene_blocks import PatchAttention
from geopeft_cli.backbones.sonata import DECODER, Sonata
from geopeft_cli.backbones.transformer import Attention
from geopeft_cli.contracts import Backbone, Geometry, Level, SelfAttention, official_parameters, published
from geopeft_cli.errors import MergeError, UsageError
from geopeft_cli.methods.lora import LoRA, LowRankUpdate
from geopeft_cli.methods.prompt import PrefixedAttention, Prompt

EXACT = {"rtol": 1e-11, "atol": 1e-11}


def prefixed(attention: SelfAttention, length: int = 5) -> PrefixedAttention:
    """In float64, with a prefix as large as what tokens have."""
    torch.manual_seed(1)
    module = PrefixedAttention(attention, length).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def expected(module: PrefixedAttention, x: Tensor, seen: Sequence[Sequence[int]]) -> Tensor:
    """Rows (T, C) token by token and head by head; ``seen`` has the tokens that each attends to."""
    base = module.base
    first, last = [layer for layer in base.modules() if isinstance(layer, nn.Linear)]
    q, k, v = (x @ first.weight.T + (0 if first.bias is None else first.bias)).chunk(3, dim=1)
    size, rows = base.width // base.heads, []
    for token, others in enumerate(seen):
        keys = torch.cat([module.prefix_keys, k[list(others)]])
        values = torch.cat([module.prefix_values, v[list(others)]])
        heads = [slice(size * head, size * (head + 1)) for head in range(base.heads)]
        weights = [(keys[:, head] @ q[token, head] / size**0.5).exp() for head in heads]
        rows.append(torch.cat([w @ values[:, head] / w.sum() for w, head in zip(weights, heads, strict=True)]))
    return torch.stack(rows) @ last.weight.T + last.bias


@torch.no_grad()
def test_the_attention_of_object_networks() -> None:
    torch.manual_seed(0)
    x, centers = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 6, 3)
    radius = float((centers[0, 0] - centers[0, 1]).norm()) + 0.1
    forms: list[tuple[SelfAttention, Tensor]] = [
        (Attention(8, 2), torch.ones(2, 6, 6)),
        (CausalAttention(8, 2), torch.ones(2, 6, 6).tril()),
        (LocalAttention(8, 2, 0, radius), near(centers, radius)),
        (LocalAttention(8, 2, 0, 0.0), torch.ones(2, 6, 6)),
    ]
    assert not forms[2][1].all()
    for attention, seen in forms:
        module = prefixed(attention)
        with published(Geometry([Level(centers, torch.arange(6))])):
            found = module(x)
        for cloud in range(2):
            others = [row.nonzero()[:, 0].tolist() for row in seen[cloud]]
            torch.testing.assert_close(found[cloud], expected(module, x[cloud], others), **EXACT)


def seen_in_patches(order: list[int], length: int) -> list[list[int]]:
    """The rows that each row of a scene attends to: those of its patch; in the last one, the last ``length``."""
    whole = len(order) // length * length
    patch_of = [order[: len(order)] if whole == 0 else order[-length:]] * len(order)
    patch_of[:whole] = [order[place // length * length :][:length] for place in range(whole)]
    return [patch for _, patch in sorted(zip(order, patch_of, strict=True))]


@torch.no_grad()
def test_patches_of_all_lengths_see_the_same_prefix() -> None:
    sizes, extents = (7, 20, 45, 16), (4, 4, 9, 5)
    batch = scenes(sizes, extents)
    model, turn, length = network(), 1, 16
    module = prefixed(PatchAttention(8, 2, level=0, turn=turn, length=length))
    x = torch.randn(sum(sizes), 8, dtype=torch.float64)
    levels = model.levels(batch)
    order = levels[0].order(turn).split(list(sizes))
    with published(Geometry(list(levels))):
        together = module(x)
    first = 0
    for index, (size, own) in enumerate(zip(sizes, order, strict=True)):
        rows = slice(first, first + size)
        with published(Geometry(list(model.levels(alone(batch, index))))):
            torch.testing.assert_close(module(x[rows]), together[rows], **EXACT)
        seen = seen_in_patches((own - first).tolist(), length)
        torch.testing.assert_close(together[rows], expected(module, x[rows], seen), **EXACT)
        first += size


@pytest.mark.parametrize("decoder", [{}, DECODER], ids=["encoder", "decoder"])
def test_counts_on_sonata(decoder: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = Sonata(**decoder).requires_grad_(False)
        Prompt().attach(model)
    trained = {name: p.numel() for name, p in official_parameters(model).items() if p.requires_grad}
    assert sum(trained.values()) == 5_492_736
    assert {name.partition(".")[0] for name in trained} == {"enc"}


def test_a_fresh_prefix_is_small_and_normal() -> None:
    torch.manual_seed(0)
    module = PrefixedAttention(Attention(64, 2), 384)
    for drawn in (module.prefix_keys, module.prefix_values):
        assert abs(float(drawn.detach().std()) - 0.02) < 5e-4
        assert abs(float(drawn.detach().mean())) < 5e-4


@pytest.mark.parametrize("kind", ["scenes", "objects"])
def test_layers_inside_stay_sites_and_a_second_prefix_is_refused(kind: str) -> None:
    model: Backbone = network() if kind == "scenes" else PointMAE(24, 2, 2, groups=4, group_size=4)
    Prompt(3).attach(model)
    LoRA(targets=("attention_in",)).attach(model)
    assert sum(isinstance(module, LowRankUpdate) for module in model.modules()) == model.depth
    with pytest.raises(UsageError, match=r"block.*\.attn is a PrefixedAttention"):
        Prompt(3).attach(model)


def test_networks_without_keys_and_values_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\.0\.mixer is a Mixer"):
        Prompt(3).attach(PointMamba(24, 1, groups=4, group_size=4))
    with pytest.raises(UsageError, match="and sonata has none"):
        Prompt(3).attach(network(depths=(0, 0, 0)))


def test_it_cannot_be_merged_and_says_why() -> None:
    model = network()
    Prompt(3).attach(model)
    with pytest.raises(MergeError, match=r"attn: .* cannot be merged into the weights: its keys .* softmax"):
        foldable_layers(model)
