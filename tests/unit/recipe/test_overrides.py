"""Arguments ``key.sub=value`` over a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from geopeft_cli.recipe.load import load_recipe

Problems = Callable[..., list[str]]
Write = Callable[[dict[str, str]], None]


@pytest.mark.parametrize(
    ("argument", "section", "key", "value"),
    [
        ("training.lr=1e-3", "training", "lr", 1e-3),
        ("training.lr=2", "training", "lr", 2.0),
        ("training.epochs=7", "training", "epochs", 7),
        ("training.clip_norm=null", "training", "clip_norm", None),
        ("training.clip_norm=", "training", "clip_norm", None),
        ("training.tensorboard=true", "training", "tensorboard", True),
        ("method.targets=[mlp_in, mlp_out]", "method", "targets", ("mlp_in", "mlp_out")),
        ("data.augment=[]", "data", "augment", ()),
        ("backbone.checkpoint=hf://a/b/c?x=1", "backbone", "checkpoint", "hf://a/b/c?x=1"),
        (" training . epochs = 7 ", "training", "epochs", 7),
    ],
)
def test_value_is_yaml_after_the_first_equals_sign(
    write: Write, small: str, argument: str, section: str, key: str, value: Any
) -> None:
    write({"r.yaml": small})
    found = getattr(getattr(load_recipe("r.yaml", [argument]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_the_last_one_wins_and_the_recipe_stays(write: Write, small: str) -> None:
    write({"r.yaml": small + "training: {epochs: 1, batch_size: 2}\n"})
    training = load_recipe("r.yaml", ["training.epochs=3", "training.epochs=4"]).training
    assert (training.epochs, training.batch_size) == (4, 2)


def test_a_whole_section_replaces(write: Write, small: str) -> None:
    write({"r.yaml": small + "training: {epochs: 1, batch_size: 2}\n"})
    training = load_recipe("r.yaml", ["training={epochs: 3}"]).training
    assert (training.epochs, training.batch_size) == (3, 32)


def test_an_empty_section_is_filled(write: Write, small: str) -> None:
    write({"r.yaml": small + "training:\n"})
    assert load_recipe("r.yaml", ["training.epochs=3"]).training.epochs == 3


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_drops_the_keys_of_the_former(write: Write, small: str, order: int) -> None:
    write({"r.yaml": small + "  rank: 4\n  alpha: 2\n"})
    method = load_recipe("r.yaml", ["method.name=most", "method.blocks=4"][::order]).method
    assert (method.name, getattr(method, "blocks", None)) == ("most", 4)


def test_the_same_kind_keeps_its_keys(write: Write, small: str) -> None:
    write({"r.yaml": small + "  rank: 4\n"})
    method = load_recipe("r.yaml", ["method.name=lora", "method.alpha=2"]).method
    assert (method.name, getattr(method, "rank", None), getattr(method, "alpha", None)) == ("lora", 4, 2.0)


def test_kinds_within_kinds(write: Write, small: str) -> None:
    write({"r.yaml": small.replace("shapes", "packed\n  path: p.npz\n  split: {by: field, field: f}")})
    arguments = ["data.split.by=list", "data.split.train=a", "data.split.test=b", "data.format=folder", "data.root=r"]
    data = load_recipe("r.yaml", arguments).data
    assert data.format == "folder"
    assert (data.root, data.split.model_dump()) == ("r", {"by": "list", "train": "a", "validation": None, "test": "b"})
    kept = load_recipe("r.yaml", ["data.split.by=fraction"]).data
    assert kept.format == "packed"
    assert (kept.path, kept.split.by) == ("p.npz", "fraction")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("training.lr", "argument 'training.lr': is not of the form key=value"),
        ("=3", "argument '=3': has no key before '='"),
        ("training..lr=3", "argument 'training..lr=3': has an empty key in 'training..lr'"),
        (".lr=3", "argument '.lr=3': has an empty key in '.lr'"),
        ("base=other", "argument 'base=other': base can be set in the recipe only"),
        ("training.lr=-1", "argument 'training.lr=-1': training.lr must be greater than 0, is -1"),
        ("training.lr=[1", "argument 'training.lr=[1': not valid YAML: a list that is not closed with ']'"),
        ("lr=1", "argument 'lr=1': unknown key 'lr'. Did you mean 'training.lr'?"),
        ("training.x.y=1", "argument 'training.x.y=1': unknown key 'training.x'"),
        ("training.lr.x=1", "argument 'training.lr.x=1': training.lr must be a number, is a section"),
        ("data.augment.0=jitter", "argument 'data.augment.0=jitter': data.augment must be a list, is a section"),
        ("training={a: 1, a: 2}", "argument 'training={a: 1, a: 2}': duplicate key 'a'"),
        ("seed=!x 1", "argument 'seed=!x 1': unknown tag '!x'; recipes hold plain values only"),
        ("seed=a\nb", "argument 'seed=a\\nb': seed must be a whole number, is 'a b'"),
        (
            "method.name=most2",
            "one of full, linear_probe, bitfit, lora, adapter, prompt, monarch, most, point_peft, gem, is 'most2'. "
            "Did you mean 'most'?",
        ),
        ("data.format=folder", "argument 'data.format=folder': missing key 'data.root'"),
        ("method.blocks=4", "argument 'method.blocks=4': method.blocks is for name: monarch or most, not lora"),
    ],
)
def test_a_mistake_names_the_argument(problems: Problems, small: str, argument: str, expected: str) -> None:
    found = problems(small, argument)
    assert found[0].endswith(expected)
    assert len(found) == (2 if argument.startswith(("training={", "seed=!x")) else 1)


def test_mistakes_of_recipe_and_arguments_come_together(problems: Problems, small: str) -> None:
    assert problems(small + "  rank: 0\nsede: 1\n", "seed=x", "training.lr", "training.epochs=0") == [
        "r.yaml:8: method.rank must be greater than 0, is 0",
        "r.yaml:9: unknown key 'sede'. Did you mean 'seed'?",
        "argument 'seed=x': seed must be a whole number, is 'x'",
        "argument 'training.lr': is not of the form key=value",
        "argument 'training.epochs=0': training.epochs must be greater than 0, is 0",
    ]


def test_arguments_are_checked_even_where_the_recipe_is_no_yaml(problems: Problems) -> None:
    assert [line.partition(":")[0] for line in problems("a: [", "x")] == ["r.yaml", "argument 'x'"]
