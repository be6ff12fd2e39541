"""The recipes that ship."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from geopeft_cli.recipe.catalog import find_recipe, list_recipes
from geopeft_cli.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2] / "recipes"
FILES = sorted(ROOT.rglob("*.yaml"))
LONGEST = 40
loaded = cache(load_recipe)


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])
def test_a_recipe_is_valid_short_and_described(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    recipe = loaded(path)
    assert recipe.description
    base = yaml.safe_load(text).get("base")
    if base is not None:
        assert find_recipe(base) is not None


def test_all_are_listed_but_bases() -> None:
    shipped = {path.relative_to(ROOT).with_suffix("").as_posix() for path in FILES}
    assert {entry.name for entry in list_recipes()} == {name for name in shipped if "/_" not in f"/{name}"}
    assert all(entry.description for entry in list_recipes())


def test_names_of_recipes_are_unique() -> None:
    names = [loaded(path).name for path in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])
def test_published_figures_say_where_they_stand(path: Path) -> None:
    recipe = loaded(path)
    for figure in recipe.published:
        assert figure.source
        assert figure.protocol
    if recipe.published:
        assert "not measured here" in recipe.description
