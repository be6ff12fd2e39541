"""Official names, and states by them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import (
    Wrapper,
    load_official_state,
    official_name,
    official_parameters,
    official_state,
)


class Doubled(Wrapper):
    """Twice what it wraps, with a parameter of its own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.base(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("blocks.blocks.0.attn.qkv.base.weight", "blocks.blocks.0.attn.qkv.weight"),
        ("qkv.base.base.weight", "qkv.weight"),
        ("base.weight", "weight"),
        ("base_model.weight", "base_model.weight"),
        ("blocks.database.weight", "blocks.database.weight"),
        ("qkv.lora_A.weight", "qkv.lora_A.weight"),
        ("", ""),
    ],
)
def test_official_names_lose_the_levels_of_wrappers_only(name: str, official: str) -> None:
    assert official_name(name) == official


def test_wrapping_keeps_every_official_name(backbone: PointMAE) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    site = next(site for site in backbone.sites() if site.role == "mlp_in")
    wrapper = Doubled(site.module)
    site.replace(wrapper)
    assert site.module is wrapper
    state = official_state(backbone)
    assert {name for name in state if name not in before} == {f"{site.name}.gain"}
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert set(official_parameters(backbone)) <= set(state)


def test_official_state_is_the_models_own_memory(backbone: PointMAE) -> None:
    official_state(backbone)["norm.weight"].fill_(7)
    assert float(backbone.norm.weight.detach().mean()) == 7
    assert not official_state(backbone)["norm.weight"].requires_grad


def test_loading_by_official_name_reaches_below_wrappers(backbone: PointMAE) -> None:
    site = backbone.sites()[-1]
    site.replace(Doubled(site.module))
    load_official_state(backbone, {f"{site.name}.weight": torch.ones(32, 128), f"{site.name}.gain": torch.tensor(3.0)})
    layer = site.module
    assert isinstance(layer, Doubled)
    assert float(layer.gain.detach()) == 3.0
    assert bool((layer.base.get_parameter("weight") == 1).all())
    with pytest.raises(KeyError):
        load_official_state(backbone, {"nothing.weight": torch.zeros(1)})
