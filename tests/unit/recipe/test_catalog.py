"""The shipped recipes: listed, found by name, copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from geopeft_cli.errors import UsageError
from geopeft_cli.recipe import catalog
from geopeft_cli.recipe.catalog import copy_recipe, find_recipe, list_recipes
from geopeft_cli.recipe.load import load_recipe

Write = Callable[[dict[str, str]], None]


@pytest.fixture
def shipped(write: Write, small: str) -> None:
    """Four recipes, one of which is broken, and a base that is not one."""
    write(
        {
            "shipped/quickstart.yaml": small + "description: >\n  Begin\n  here.\n",
            "shipped/classification/a/point_mae_most.yaml": "description: [broken\n",
            "shipped/classification/a/point_mae_full.yaml": small,
            "shipped/classification/b/point_mae_full.yaml": small + "description: 3\n",
            "shipped/_bases/common.yaml": small,
            "shipped/classification/_common.yaml": small,
            "shipped/notes.txt": "",
        }
    )


@pytest.mark.usefixtures("shipped")
def test_list(here: Path) -> None:
    entries = list_recipes()
    assert [(entry.name, entry.description) for entry in entries] == [
        ("classification/a/point_mae_full", ""),
        ("classification/a/point_mae_most", ""),
        ("classification/b/point_mae_full", ""),
        ("quickstart", "Begin here."),
    ]
    assert entries[-1].path == here / "shipped/quickstart.yaml"


@pytest.mark.usefixtures("shipped")
def test_find(here: Path) -> None:
    assert find_recipe("quickstart") == here / "shipped/quickstart.yaml"
    assert find_recipe("classification/b/point_mae_full") == here / "shipped/classification/b/point_mae_full.yaml"
    assert find_recipe("point_mae_most") == here / "shipped/classification/a/point_mae_most.yaml"
    assert find_recipe("_bases/common") == here / "shipped/_bases/common.yaml"
    assert find_recipe("nothing") is None
    with pytest.raises(UsageError, match="a/point_mae_full, classification/b/point_mae_full"):
        find_recipe("point_mae_full")


@pytest.mark.usefixtures("shipped")
def test_load_by_name(write: Write) -> None:
    assert load_recipe("quickstart").name == "small"
    with pytest.raises(UsageError, match=r"^quikstart: no such file.* Did you mean 'quickstart'\?"):
        load_recipe("quikstart")
    write({"quickstart": "name: a file goes first"})
    with pytest.raises(UsageError, match=r"^quickstart:1: "):
        load_recipe("quickstart")


@pytest.mark.usefixtures("shipped")
def test_copy(here: Path) -> None:
    assert copy_recipe("quickstart", Path("mine.yaml")) == Path("mine.yaml")
    assert (here / "mine.yaml").read_bytes() == (here / "shipped/quickstart.yaml").read_bytes()


@pytest.mark.usefixtures("shipped")
def test_copy_refuses(here: Path) -> None:
    (here / "mine.yaml").write_text("precious")
    (here / "folder").mkdir()
    for name, destination, message in [
        ("quickstart", "mine.yaml", "mine.yaml: exists; not overwritten"),
        ("quickstart", "folder", "folder: exists; not overwritten"),
        ("quickstart", "no/mine.yaml", "no/mine.yaml: the folder no does not exist"),
        ("quikstart", "new.yaml", "quikstart: no shipped recipe of that name. Did you mean 'quickstart'?"),
        ("zzz", "new.yaml", "zzz: no shipped recipe of that name"),
    ]:
        with pytest.raises(UsageError) as raised:
            copy_recipe(name, Path(destination))
        assert raised.value.message == message
    assert (here / "mine.yaml").read_text() == "precious"
    assert not (here / "new.yaml").exists()


@pytest.mark.parametrize("installed", [True, False])
def test_root_is_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    package = tmp_path / "geopeft_cli"
    (package / "recipe").mkdir(parents=True)
    if installed:
        (package / "assets/recipes").mkdir(parents=True)
    monkeypatch.setattr(catalog, "__file__", str(package / "recipe/catalog.py"))
    assert catalog.recipes_root() == (package / "assets/recipes" if installed else tmp_path / "recipes")


def test_without_recipes_nothing_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "recipes_root", lambda: tmp_path / "nowhere")
    assert list_recipes() == []
    assert find_recipe("quickstart") is None
