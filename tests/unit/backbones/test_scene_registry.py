"""Recipes name every network, of objects and of scenes, and the page on scenes has those that read them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from geopeft_cli.backbones import BACKBONES, SCENE_BACKBONES, scene_backbone_class
from geopeft_cli.contracts import SceneBackbone
from geopeft_cli.recipe.backbones import ObjectBackboneSection, SceneBackboneSection

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize("name", sorted(SCENE_BACKBONES))
def test_networks_of_scenes(name: str) -> None:
    kind = scene_backbone_class(name)
    assert issubclass(kind, SceneBackbone)
    assert kind.name == name


@pytest.mark.parametrize(
    ("section", "registry"), [(ObjectBackboneSection, BACKBONES), (SceneBackboneSection, SCENE_BACKBONES)]
)
def test_recipes_name_them_all(section: type[SceneBackboneSection], registry: dict[str, str]) -> None:
    assert set(get_args(section.model_fields["name"].annotation)) == set(registry)


def test_the_documentation_has_them() -> None:
    page = (DOCS / "scenes.md").read_text()
    assert all(f"`{name}`" in page for name in (*SCENE_BACKBONES, "gem"))
