"""The geometry of a forward pass and the tokens of a trunk."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.contracts import (
    Geometry,
    Level,
    Tokens,
    current_level,
    published,
)
from geopeft_cli.errors import GeometryError, ShapeError


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
