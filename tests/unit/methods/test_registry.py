"""Recipe sections and constructors say the same, so that a recipe's values are the method's arguments."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest

from geopeft_cli.methods import METHODS, method_class
from geopeft_cli.recipe import methods as sections
from geopeft_cli.recipe.methods import MethodSettings

SECTIONS: dict[str, type[MethodSettings]] = {
    get_args(section.model_fields["name"].annotation)[0]: section
    for section in vars(sections).values()
    if isinstance(section, type) and issubclass(section, MethodSettings) and section is not MethodSettings
}


OTHERS: dict[str, Any] = {
    "variant": "released",
    "adabias": "off",
    "init": "zero_zero",
    "generator_graph": "released",
    "graph": "causal",
    "factor": {"type": "low_rank", "rank": 2},
    "lam_schedule": {"to": 0.0, "from_epoch": 1, "until_epoch": None},
    "prompted_blocks": 2,
    "bank_per_class": 5,
    "bank_precision": "fp16",
    "pooling": "maxmean",
    "share": "stage",
    "act": "gelu",
    "scale": 0.5,
    "stages": [0],
    "voxel": 0.3,
    "kernel": 5,
    "places": "mlp",
}


def constructor(name: str) -> dict[str, Any]:
    return {key: value.default for key, value in inspect.signature(method_class(name)).parameters.items()}


def test_every_method_has_a_section_and_the_other_way_round() -> None:
    assert set(SECTIONS) == set(METHODS)
    union = get_args(get_args(sections.MethodSection)[0])
    assert set(union) == set(SECTIONS.values())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_section_has_the_arguments_and_defaults_of_the_constructor(name: str) -> None:
    fields = SECTIONS[name](name=name).model_dump(exclude={"name"})
    assert fields.pop("tokens") == "auto"
    assert fields == constructor(name)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_settings_rebuild_the_method(name: str) -> None:
    assert method_class(name).name == name
    changed = {key: OTHERS.get(key) or _other(value) for key, value in constructor(name).items()}
    if name == "point_peft":
        changed["init"] = "identity"
    if name == "gem":
        changed["spatial"] = True
    method = method_class(name)(**changed)
    assert method.settings() == {key: list(v) if isinstance(v, tuple) else v for key, v in changed.items()}
    assert method_class(name)(**method.settings()).settings() == method.settings()


def _other(value: Any) -> Any:
    """A valid value that is not the default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 1 if value == 2 else value + 1
    if isinstance(value, float):
        return value / 2 + 0.25
    return "blocks" if value == "all" else ("mlp_out",)
