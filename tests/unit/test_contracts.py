"""The shared nouns: names, sites, geometry, and BatchNorm that stays frozen."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import (
    BLOCK_ROLES,
    Geometry,
    Level,
    Tokens,
    Wrapper,
    current_level,
    load_official_state,
    official_name,
    official_parameters,
    official_state,
    published,
    select_sites,
)
from geopeft_cli.errors import GeometryError, ShapeError, UsageError


class Doubled(Wrapper):
    """Twice what it wraps, with a parameter of its own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.base(x)  # type: ignore[no-any-return]


@pytest.fixture
def backbone() -> PointMAE:
    torch.manual_seed(0)
    return PointMAE(width=32, depth=2, heads=2, groups=4, group_size=4)


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


def test_sites_name_the_modules_they_hold(backbone: PointMAE) -> None:
    sites = backbone.sites()
    assert len({site.name for site in sites}) == len(sites) == 6 + 5 * 2
    for site in sites:
        assert backbone.get_submodule(site.name) is site.module
        assert (site.block >= 0) == (site.role in ("attention", *BLOCK_ROLES)) == (site.level is not None)
        assert site.block == (int(site.name.split(".")[2]) if site.name.startswith("blocks") else -1)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (("all",), 8),
        (("attention_in", "attention_in"), 2),
        (("attn.qkv", "qkv", "attention_in"), 2),
        (("blocks.blocks.1.mlp.fc1",), 1),
        (("1.mlp.fc1",), 1),
        (("position",), 2),
        (("all", "patch_embedding"), 12),
        (("mlp_out", "attention_in"), 4),
        ((), 0),
    ],
)
def test_targets(backbone: PointMAE, targets: tuple[str, ...], count: int) -> None:
    chosen = select_sites(backbone, targets)
    assert len(chosen) == count
    order = [site.name for site in backbone.sites()]
    assert [site.name for site in chosen] == sorted((site.name for site in chosen), key=order.index)


@pytest.mark.parametrize("target", ["kv", "attn", "blocks.blocks.1", "Attention_in", "tn.qkv", "head", ""])
def test_a_target_without_a_match_is_refused(backbone: PointMAE, target: str) -> None:
    with pytest.raises(UsageError, match="matches no layer of point_mae"):
        select_sites(backbone, ("qkv", target))


def test_geometry_is_withdrawn_after_an_exception() -> None:
    level = Level(torch.zeros(1, 2, 3), torch.tensor([0, 1]))

    def fail() -> None:
        with published(Geometry([level])):
            assert current_level(0, "a layer") is level
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    with pytest.raises(GeometryError, match="a layer needs the centers"):
        current_level(0, "a layer")


def test_memory_of_a_level_builds_once_by_key() -> None:
    level = Level(torch.zeros(1, 2, 3), torch.tensor([0, 1]))
    built: list[str] = []

    def build(word: str) -> str:
        built.append(word)
        return word

    assert [level.memo(key, lambda key=key: build(key)) for key in "abaab"] == list("abaab")
    assert built == ["a", "b"]
    assert level.memo("none", lambda: None) is None


@pytest.mark.parametrize("bypass", [0, 1, 3])
def test_spatial_tokens_are_those_with_a_center(bypass: int) -> None:
    features = torch.arange((bypass + 4) * 2.0).reshape(1, bypass + 4, 2)
    slots = torch.arange(-bypass, 4).clamp(min=-1)
    for places in (None, slice(bypass, None)):
        found = Tokens(features, torch.zeros(1, 4, 3), slots, places=places).spatial(features)
        assert torch.equal(found, features[:, slots >= 0])


def test_spatial_tokens_stand_anywhere_and_several_times() -> None:
    features = torch.arange(24.0).reshape(2, 6, 2)
    centers = torch.arange(12.0).reshape(2, 2, 3)
    one = torch.tensor([1, -1, 0, 0, -1, 1])
    each = torch.stack([one, torch.tensor([-1, 0, 1, 1, 0, -1])])
    tokens = Tokens(features, centers, one)
    assert torch.equal(tokens.spatial(features), features[:, [0, 2, 3, 5]])
    assert torch.equal(tokens.spatial_centers(), centers[:, [1, 0, 0, 1]])
    tokens = Tokens(features, centers, each)
    assert torch.equal(tokens.spatial(features), torch.stack([features[0, [0, 2, 3, 5]], features[1, 1:5]]))
    assert torch.equal(tokens.spatial_centers(), torch.stack([centers[0, [1, 0, 0, 1]], centers[1, [0, 1, 1, 0]]]))
    ragged = Tokens(features, centers, torch.where(each == 1, -1, each).triu())
    with pytest.raises(ShapeError, match="tokens with a center"):
        ragged.spatial(features)


def test_batchnorm_whose_weight_is_frozen_stays_in_eval_mode(backbone: PointMAE) -> None:
    first, second = backbone.encoder.first_conv[1], backbone.encoder.second_conv[1]
    modes: Mapping[tuple[bool, bool], tuple[bool, bool]] = {
        (False, False): (False, False),
        (True, False): (True, False),
        (True, True): (True, True),
    }
    for trains, expected in modes.items():
        first.weight.requires_grad_(trains[0])
        second.weight.requires_grad_(trains[1])
        backbone.train()
        assert (first.training, second.training) == expected
        assert backbone.blocks.training
        assert backbone.eval() is backbone
        assert not any(module.training for module in backbone.modules())


def test_batchnorm_without_a_weight_counts_as_frozen(backbone: PointMAE) -> None:
    backbone.extra = nn.BatchNorm1d(4, affine=False)
    backbone.train()
    assert not backbone.extra.training
