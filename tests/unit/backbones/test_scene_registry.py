"""Networks for scenes stand apart from those that recipes name, as long as no recipe can train them."""

from __future__ import annotations

from pathlib import Path

import pytest

from geopeft_cli.backbones import BACKBONES, SCENE_BACKBONES, scene_backbone_class
from geopeft_cli.contracts import SceneBackbone
from geopeft_cli.errors import UsageError
from geopeft_cli.recipe.load import parse_recipe

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize("name", sorted(SCENE_BACKBONES))
def test_networks(name: str) -> None:
    kind = scene_backbone_class(name)
    assert issubclass(kind, SceneBackbone)
    assert kind.name == name
    assert name not in BACKBONES
    with pytest.raises(UsageError, match=r"backbone\.name"):
        parse_recipe(f"name: scene\ndata: {{format: shapes}}\nbackbone: {{name: {name}, checkpoint: a.pth}}", "recipe")


def test_the_documentation_says_so() -> None:
    page = " ".join((DOCS / "scenes.md").read_text().split())
    assert "no recipe names these networks" in page
    assert all(f"`{name}`" in page for name in (*SCENE_BACKBONES, "gem"))
