"""One level of ``base:`` under a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from geopeft_cli.data.scene_sources import FORMATS as SCENE_FORMATS
from geopeft_cli.data.sources import FORMATS as OBJECT_FORMATS
from geopeft_cli.recipe.load import load_recipe

Problems = Callable[..., list[str]]
Write = Callable[[dict[str, str]], None]

FORMATS = ", ".join([*OBJECT_FORMATS, *SCENE_FORMATS])


def test_sections_are_merged_key_by_key(write: Write, small: str) -> None:
    base = small + "  rank: 4\ntraining: {epochs: 5, lr: 1e-2}\ntask: {fusion: {layers: 3}}\n"
    child = "base: common.yaml\nname: child\ntraining: {epochs: 6}\ntask: {fusion: {affine: true}}\n"
    write({"bases/common.yaml": base, "bases/r.yaml": child})
    recipe = load_recipe("bases/r.yaml", ["training.batch_size=9"])
    assert (recipe.name, recipe.method.name, getattr(recipe.method, "rank", None)) == ("child", "lora", 4)
    assert (recipe.training.epochs, recipe.training.lr, recipe.training.batch_size) == (6, 0.01, 9)
    assert recipe.task.fusion.model_dump() == {"layers": 3, "affine": True}


def test_lists_are_replaced(write: Write, small: str) -> None:
    write({"b.yaml": small + "  targets: [mlp_in, mlp_out]\n", "r.yaml": "base: b.yaml\nmethod: {targets: [mlp_in]}\n"})
    assert getattr(load_recipe("r.yaml").method, "targets", None) == ("mlp_in",)


@pytest.mark.parametrize("base", ["{base}/b.yaml", "../b.yaml", "sub/../../b.yaml"])
def test_base_is_a_path_from_the_recipe(write: Write, here: Path, small: str, base: str) -> None:
    write({"b.yaml": small, "folder/r.yaml": f"base: {base.format(base=here)}\n", "folder/sub/x": ""})
    assert load_recipe("folder/r.yaml").name == "small"


def test_base_is_a_shipped_recipe(write: Write, small: str) -> None:
    write({"shipped/a/tiny.yaml": small, "r.yaml": "base: a/tiny\nname: mine\n", "s.yaml": "base: tiny\n"})
    assert load_recipe("r.yaml").name == "mine"
    assert load_recipe("s.yaml").name == "small"


def test_the_home_directory(write: Write, here: Path, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    write({"home/b.yaml": small, "r.yaml": "base: ~/b.yaml\n"})
    assert load_recipe("r.yaml").name == "small"


def test_another_kind_replaces_the_section(write: Write, small: str) -> None:
    write(
        {
            "b.yaml": small.replace("shapes", "packed\n  path: p\n  points: 7\n  split: {by: field, field: f}"),
            "m.yaml": "base: b.yaml\nmethod: {name: most}\n",
            "d.yaml": "base: b.yaml\ndata: {format: shapes}\n",
            "s.yaml": "base: b.yaml\ndata: {split: {by: fraction}}\n",
            "t.yaml": "base: b.yaml\ndata: {format: packed, split: {validation: 0.5}}\n",
        }
    )
    assert load_recipe("m.yaml").method.name == "most"
    assert load_recipe("d.yaml").data.points == 1024
    data = load_recipe("s.yaml").data
    assert (data.points, data.model_dump()["split"]) == (7, {"by": "fraction", "validation": 0.0, "test": 0.2})
    data = load_recipe("t.yaml").data
    assert (data.points, data.model_dump()["split"]) == (7, {"by": "field", "field": "f", "validation": 0.5})


def test_mistakes_stand_where_they_were_written(problems: Problems, small: str) -> None:
    child = "base: b.yaml\ntraining:\n  lr: 0\nseed: 3\n"
    base = small + "  rnk: 3\nseed: x\ntraining: {epochs: 0, lr: x}\n"
    assert problems(child, b=base) == [
        "r.yaml:3: training.lr must be greater than 0, is 0",
        "b.yaml:8: unknown key 'method.rnk'. Did you mean 'method.rank'?",
        "b.yaml:10: training.epochs must be greater than 0, is 0",
    ]


def test_a_missing_key_is_missed_in_the_recipe(problems: Problems) -> None:
    assert problems("# mine\nbase: b.yaml\ndata: {}\n", b="name: a\nmethod: {name: full}\n") == [
        "r.yaml:2: missing key 'backbone'",
        f"r.yaml:3: missing key 'data.format', one of {FORMATS}",
    ]


def test_structure_mistakes_in_the_base(problems: Problems, small: str) -> None:
    assert problems("base: b.yaml\n", b=small + "name: again\n") == ["b.yaml:8: duplicate key 'name', first in line 1"]
    assert problems("base: b.yaml\nlr: 1\n", b="a: [") == ["b.yaml:1:5: not valid YAML: a value is missing here"]


def test_a_base_has_no_base(problems: Problems, small: str) -> None:
    found = problems("base: b.yaml\nlr: 1\n", b=f"{small}base: c.yaml\n")
    assert found == [
        "r.yaml:2: unknown key 'lr'. Did you mean 'training.lr'?",
        "b.yaml:8: a base must not have a base itself (it is the base of r.yaml)",
    ]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("b.yml", "r.yaml:2: base: b.yml: no such file, and no shipped recipe of that name. Did you mean 'b.yaml'?"),
        ("3", "r.yaml:2: base must be the path or the name of another recipe"),
        ("", "r.yaml:2: base must be the path or the name of another recipe"),
        ("[a]", "r.yaml:2: base must be the path or the name of another recipe"),
        (".", "r.yaml:2: base: .: a directory, not a recipe"),
    ],
)
def test_a_base_that_is_not_there(problems: Problems, small: str, base: str, expected: str) -> None:
    assert problems(f"name: a\nbase: {base}\n", b=small) == [expected]


def test_a_misspelled_base(problems: Problems, small: str) -> None:
    assert problems(small + "bse: x\n") == ["r.yaml:8: unknown key 'bse'. Did you mean 'base'?"]


def test_a_recipe_that_is_its_own_base(problems: Problems) -> None:
    assert "a base must not have a base itself" in problems("base: r.yaml\n")[0]
