"""What a recipe becomes when it is read: defaults, spellings of numbers, and files that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from geopeft_cli.errors import UsageError
from geopeft_cli.recipe.load import load_recipe, parse_recipe
from geopeft_cli.recipe.problems import RecipeError

Write = Callable[[dict[str, str]], None]

HEAD = "name: x\ndata: {format: shapes}\nbackbone: {checkpoint: a.pth}\nmethod: {name: full}\n"


def test_small_recipe_gets_the_defaults(write: Write, small: str) -> None:
    write({"r.yaml": small})
    recipe = load_recipe("r.yaml")
    assert (recipe.name, recipe.method.name, recipe.training.epochs, recipe.seed) == ("small", "lora", 300, 0)
    assert load_recipe(Path("r.yaml")) == recipe


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "+1.0e-3", "1_0e-4"])
def test_numbers_in_every_spelling(write: Write, text: str) -> None:
    write({"r.yaml": f"{HEAD}training: {{lr: {text}}}\n"})
    assert load_recipe("r.yaml").training.lr == 0.001


def test_aliases_and_dates_and_marks_at_the_start_are_fine(write: Write) -> None:
    text = "\ufeffname: &n 2024-01-02\ndescription: *n\n" + HEAD.partition("\n")[2]
    write({"r.yaml": text})
    recipe = load_recipe("r.yaml")
    assert recipe.name == recipe.description == "2024-01-02"


def test_a_recipe_kept_as_json(write: Write) -> None:
    write({"r.yaml": HEAD + "description: 'caf\u00e9 \U0001f600'\ntraining: {lr: 1e-7}\n"})
    recipe = load_recipe("r.yaml")
    text = json.dumps(recipe.model_dump())
    assert "\\ud83d" in text
    assert "1e-07" in text
    assert parse_recipe(text, "the adapter") == recipe
    assert parse_recipe(text, "the adapter", ["seed=3"]).seed == 3
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text.replace('"seed"', '"sede"', 1), "the adapter", ["training.lr=0"])
    assert raised.value.message.splitlines() == [
        "the adapter:1: unknown key 'sede'. Did you mean 'seed'?",
        "argument 'training.lr=0': training.lr must be greater than 0, is 0",
    ]


def test_checksums_are_read_in_both_cases(write: Write) -> None:
    write({"r.yaml": HEAD.replace("a.pth", f'a.pth, sha256: "{"AB" * 32}"')})
    assert load_recipe("r.yaml").backbone.sha256 == "ab" * 32


@pytest.mark.parametrize("eps", ["0.05", "1e-2", "{relative: 0.5}"])
def test_eps_is_a_length_or_relative(write: Write, small: str, eps: str) -> None:
    write({"r.yaml": small})
    found = load_recipe("r.yaml", ["method.name=most", f"method.eps={eps}"]).method.model_dump()["eps"]
    assert found == {"0.05": 0.05, "1e-2": 0.01}.get(eps, {"relative": 0.5})


def test_scanobjectnn_alone_is_not_normalized_by_default(write: Write) -> None:
    for data, expected in (("scanobjectnn, root: x, variant: hardest", "none"), ("modelnet40, root: x", "unit_sphere")):
        write({"r.yaml": HEAD.replace("shapes", data)})
        assert load_recipe("r.yaml").data.normalize == expected


def test_files_that_cannot_be_read(write: Write, here: Path) -> None:
    write({"quick.yaml": "", "runs/a.txt": ""})
    (here / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    messages = {
        "bytes.yaml": "bytes.yaml: not a text file in UTF-8 (byte 6)",
        "runs": "runs: a directory, not a recipe",
        "quik.yaml": "quik.yaml: no such file, and no shipped recipe of that name. Did you mean 'quick.yaml'?",
        "no/where.yaml": "no/where.yaml: no such file, and no shipped recipe of that name",
    }
    for source, message in messages.items():
        with pytest.raises(UsageError) as raised:
            load_recipe(source)
        assert raised.value.message == message
        assert raised.value.exit_code == 2
