"""The bottleneck adapter: its formula, where it stands, its counts on a scene network, and that it is never merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.scenes import network, scenes
from geopeft_cli.adapters.merge import foldable_layers
from geopeft_cli.backbones.point_mamba import PointMamba
from geopeft_cli.backbones.recon import ReCon
from geopeft_cli.backbones.sonata import DECODER, Sonata
from geopeft_cli.contracts import Backbone, official_parameters
from geopeft_cli.errors import MergeError
from geopeft_cli.methods.adapter import Adapter, SerialAdapter

TINY: dict[str, Any] = {"width": 24, "depth": 2, "groups": 4, "group_size": 4}


def adapted_layers(model: Backbone) -> set[str]:
    """Names of the layers behind which there is something that trains."""
    trained = [name for name, p in official_parameters(model).items() if p.requires_grad]
    return {name.partition(".bottleneck.")[0] for name in trained}


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
@torch.no_grad()
def test_the_formula(kind: type[nn.Linear] | type[nn.Conv1d]) -> None:
    torch.manual_seed(0)
    is_linear = kind is nn.Linear
    base = nn.Linear(5, 7) if is_linear else nn.Conv1d(5, 7, 1)
    layer, x = SerialAdapter(base, 3).double(), torch.randn(2, 4, 5, dtype=torch.float64)
    assert torch.equal(layer(x if is_linear else x.mT), base(x if is_linear else x.mT))
    down, up = layer.bottleneck.get_submodule("down"), layer.bottleneck.get_submodule("up")
    assert not down.bias.any()
    assert down.weight.std() > 0.1
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    y = x @ base.weight.flatten(1).T + base.bias
    expected = y + gelu(y @ down.weight.flatten(1).T + down.bias) @ up.weight.flatten(1).T + up.bias
    found = layer(x) if is_linear else layer(x.mT).mT
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 2_765_280), ({"rank": 192, "places": "mlp"}, 2_758_128)], ids=["both", "mlp"]
)
def test_counts_on_sonata(settings: dict[str, Any], count: int) -> None:
    for decoder in ({}, DECODER):
        with torch.device("meta"):
            model = Sonata(**decoder).requires_grad_(False)
            Adapter(**settings).attach(model)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@torch.no_grad()
def test_on_scenes_it_stays_in_the_encoder_and_changes_no_bit_at_the_start() -> None:
    model = network("ptv3").requires_grad_(False)
    Adapter(rank=4).attach(model)
    blocks = [f"enc.enc{level}.block{i}" for level, depth in enumerate((3, 1, 1)) for i in range(depth)]
    assert adapted_layers(model) == {f"{block}.{layer}" for block in blocks for layer in ("attn.proj", "mlp.0.fc2")}
    assert torch.equal(model(scenes()), network("ptv3")(scenes()))


@pytest.mark.parametrize(("places", "layers"), [("both", {"attn.proj", "mlp.fc2"}), ("mlp", {"mlp.fc2"})])
def test_the_queries_of_recon_have_none(places: Any, layers: set[str]) -> None:
    model = ReCon(**TINY, heads=2).requires_grad_(False)
    Adapter(rank=4, places=places).attach(model)
    assert adapted_layers(model) == {f"blocks.blocks.{i}.{layer}" for i in range(2) for layer in layers}


@pytest.mark.parametrize("places", ["both", "mlp"])
def test_a_mixer_does_the_work_of_both_halves(places: Any) -> None:
    model = PointMamba(**TINY).requires_grad_(False)
    Adapter(rank=4, places=places).attach(model)
    assert {name.rpartition(".")[2] for name in adapted_layers(model)} == {"out_proj"}


def test_it_cannot_be_merged_and_says_why() -> None:
    model = network()
    Adapter(rank=4).attach(model)
    with pytest.raises(MergeError, match=r"attn\.proj: .* cannot be merged into the weights: there is a GELU"):
        foldable_layers(model)
