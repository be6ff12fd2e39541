"""Recipes in an empty directory, and the lines that loading them prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from geopeft_cli.recipe import catalog
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.problems import RecipeError

SMALL = """\
name: small
data:
  format: shapes
backbone:
  checkpoint: embedded:tiny
method:
  name: lora
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, from which no shipped recipe is seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "recipes_root", lambda: tmp_path / "shipped")
    return tmp_path


@pytest.fixture
def write(here: Path) -> Callable[[Mapping[str, str]], None]:
    """Write files by relative name."""

    def write_all(files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return write_all


@pytest.fixture
def problems(write: Callable[[Mapping[str, str]], None]) -> Callable[..., list[str]]:
    """The lines printed for a recipe's text with arguments over it, and with other files beside it."""

    def lines(text: str, *overrides: str, **files: str) -> list[str]:
        write({"r.yaml": text, **{f"{name}.yaml": content for name, content in files.items()}})
        with pytest.raises(RecipeError) as raised:
            load_recipe("r.yaml", overrides)
        assert raised.value.exit_code == 2
        assert [str(problem) for problem in raised.value.problems] == raised.value.message.splitlines()
        return raised.value.message.splitlines()

    return lines


@pytest.fixture
def small() -> str:
    """The text of a small valid recipe of seven lines."""
    return SMALL
