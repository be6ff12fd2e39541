"""A dumped recipe loads to an equal one, and paths do not depend on where the run was started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from geopeft_cli.recipe.dump import dump_recipe
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.locations import is_local, resolve_paths
from geopeft_cli.recipe.schema import Recipe

Write = Callable[[dict[str, str]], None]

METHODS = [
    {"name": "full"},
    {"name": "linear_probe", "tokens": "train"},
    {"name": "bitfit", "scope": "blocks"},
    {"name": "lora", "rank": 3, "alpha": 0.1, "rslora": True, "targets": ["mlp_in"]},
    {"name": "monarch", "blocks": 4, "dropout": 0.30000000000000004},
    {"name": "most", "lam": 1e-300, "eps": 5e-324, "sides": 1},
    {"name": "most", "variant": "released", "adabias": "off"},
]
DATA = [
    {"format": "shapes", "augment": ["rotate_y", "jitter"], "domain": "clean"},
    {"format": "folder", "root": "~/my clouds: new"},
    {"format": "folder", "root": "é", "split": {"by": "list", "train": "null", "test": "1e3"}},
    {"format": "folder", "root": "-", "split": {"by": "folder", "validation": "val"}},
    {"format": "packed", "path": "#1.npz", "split": {"by": "field", "validation": 1 / 3}},
]
TEXTS = [
    "",
    "a: b # c",
    "two\nlines\n",
    "  led",
    "tab\there",
    "yes",
    "2024-01-01",
    "=",
    "'",
    '"\\',
    "\x00\x85\ufeff",
    "é" * 300,
]
RATES = [5e-4, 1e-6, 1e-3, 0.1 + 0.2, 1e22, 1.7976931348623157e308, 5e-324, 3.0]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method["name"]))
@pytest.mark.parametrize("data", DATA, ids=lambda data: str(data.get("root", data["format"])))
def test_dump_loads_to_the_same(write: Write, method: dict[str, object], data: dict[str, object]) -> None:
    for index, rate in enumerate(RATES):
        text = TEXTS[index % len(TEXTS)]
        recipe = Recipe.model_validate(
            {
                "name": "1e5",
                "description": text,
                "data": data,
                "backbone": {"checkpoint": "a.pth", "sha256": "0" * 64},
                "method": method,
                "training": {"lr": rate, "min_lr": rate, "clip_norm": None},
                "published": [{"metric": "OA", "value": rate, "source": text, "protocol": text}] * (index % 3),
            }
        )
        write({"r.yaml": dump_recipe(recipe)})
        again = load_recipe("r.yaml")
        assert again == recipe
        assert again.training.lr.hex() == rate.hex()
        assert dump_recipe(again) == dump_recipe(recipe)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(write: Write, small: str, text: str) -> None:
    write({"r.yaml": small})
    recipe = load_recipe("r.yaml").model_copy(update={"description": text})
    write({"s.yaml": dump_recipe(recipe)})
    assert load_recipe("s.yaml").description == text


def test_dump_spells_everything_out_in_the_order_of_the_schema(write: Write, small: str) -> None:
    write({"r.yaml": small})
    text = dump_recipe(load_recipe("r.yaml"))
    plain = yaml.safe_load(text)
    assert list(plain) == list(Recipe.model_fields)
    assert list(plain["data"])[:2] == ["format", "points"]
    assert list(plain["method"])[:2] == ["name", "tokens"]
    assert list(plain["backbone"])[:2] == ["name", "checkpoint"]
    assert "  targets: [attention_in, attention_out, mlp_in, mlp_out]\n" in text
    assert "  lr: 0.0005\n" in text
    assert "  threads: null\n" in text


def test_paths_become_absolute(write: Write, here: Path, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    folder = small.replace("shapes", "folder\n  root: ../clouds\n  split: {by: list, train: a.txt, test: ~/b.txt}")
    packed = small.replace("shapes", "packed\n  path: ~/p.npz").replace("embedded:tiny", "weights/a.pth")
    write({"runs/f.yaml": folder, "runs/p.yaml": packed})
    recipe = resolve_paths(load_recipe("runs/f.yaml"))
    assert recipe.data.format == "folder"
    assert recipe.data.root == str(here.parent / "clouds")
    assert recipe.data.split.model_dump(exclude={"by", "validation"}) == {
        "train": "a.txt",
        "test": "/home/someone/b.txt",
    }
    assert recipe.backbone.checkpoint == "embedded:tiny"
    recipe = resolve_paths(load_recipe("runs/p.yaml"))
    assert recipe.data.format == "packed"
    assert recipe.data.path == "/home/someone/p.npz"
    assert recipe.backbone.checkpoint == str(here / "weights/a.pth")
    assert resolve_paths(recipe) == recipe


@pytest.mark.parametrize(
    "section",
    ["scanobjectnn, variant: obj_bg", "modelnet40", "modelnet10", "modelnet_fewshot, way: 5, shot: 10"],
)
def test_the_root_of_a_published_set_becomes_absolute(write: Write, here: Path, small: str, section: str) -> None:
    write({"r.yaml": small.replace("\n  format: shapes", f" {{format: {section}, root: data/set}}")})
    assert resolve_paths(load_recipe("r.yaml")).data.model_dump()["root"] == str(here / "data/set")


@pytest.mark.parametrize(
    ("checkpoint", "local"),
    [("a.pth", True), ("/a/b", True), ("embedded:x", False), ("https://a/b", False), ("hf://a/b/c", False)],
)
def test_which_checkpoints_are_paths(checkpoint: str, local: bool) -> None:
    assert is_local(checkpoint) is local
