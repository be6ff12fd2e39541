"""The record in an adapter's header."""

from __future__ import annotations

import json
from typing import Any

import pytest

from geopeft_cli.adapters.manifest import FORMAT, Manifest
from geopeft_cli.errors import AdapterError

RECIPE = {name: {"name": name} for name in ("data", "backbone", "method", "task", "training")}
MANIFEST = Manifest(
    recipe={"name": "größe", **RECIPE},
    classes=["chair", "스툴"],
    backbone={"width": 24},
    base_sha256="ab" * 32,
    fresh=["cls_token"],
    total_parameters=10,
    trainable_parameters=3,
    metrics={"test": {"accuracy": 91.25}},
    selection={"epoch": 2, "text": "last of 3 epochs"},
    versions={"torch": "2.6"},
)


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(MANIFEST.to_text()), **values})


def test_round_trip() -> None:
    assert Manifest.from_text(MANIFEST.to_text(), "x") == MANIFEST
    assert MANIFEST.format == FORMAT
    assert MANIFEST.to_text() == Manifest.from_text(MANIFEST.to_text(), "x").to_text()


@pytest.mark.parametrize("found", [FORMAT + 1, 99])
def test_a_later_format_asks_for_an_update(found: int) -> None:
    with pytest.raises(AdapterError) as caught:
        Manifest.from_text(changed(format=found, news=1), "a.safetensors")
    assert caught.value.message == f"a.safetensors is of format {found}, this geopeft reads {FORMAT}"
    assert caught.value.hint == "Update geopeft."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        changed(format=None),
        changed(format="one"),
        changed(format=[1]),
        changed(surprise=1),
        changed(recipe=None),
        changed(recipe=[]),
        changed(recipe={}),
        changed(recipe={**RECIPE, "method": "lora"}),
        json.dumps({"format": FORMAT}),
    ],
)
def test_a_damaged_record_is_an_error(text: str) -> None:
    with pytest.raises(AdapterError, match=r"^a\.safetensors has a damaged record") as caught:
        Manifest.from_text(text, "a.safetensors")
    assert "\n" not in caught.value.message
