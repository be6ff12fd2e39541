"""Adapters that carry no record of geopeft, as Hugging Face peft writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from geopeft_cli.errors import AdapterError
from geopeft_cli.recipe.problems import RecipeError
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.export import export_trained


@pytest.fixture(scope="module")
def exported(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with LoRA as a directory for peft, with its completed base beside it."""
    folder = tmp_path_factory.mktemp("peft") / "lora"
    export_trained(lora_run, "peft", folder)
    return folder


@pytest.fixture(scope="module")
def arguments(lora_run: Path, exported: Path) -> list[str]:
    """What the directory does not say: data, and the backbone with its completed base."""
    recipe = yaml.safe_load((lora_run / "recipe.yaml").read_text())
    recipe["backbone"]["checkpoint"] = str(exported / "base_model.safetensors")
    return [f"{key}={json.dumps(recipe[key])}" for key in ("data", "backbone")]


def test_it_is_measured_like_the_run_that_it_came_from(lora_run: Path, exported: Path, arguments: list[str]) -> None:
    found, expected = evaluate_trained(exported, arguments), evaluate_trained(lora_run)
    assert (found.metrics, found.confusion) == (expected.metrics, expected.confusion)


def test_what_is_missing_is_asked_for(exported: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        evaluate_trained(exported)
    said = str(caught.value)
    assert "data" in said
    assert "backbone" in said


def test_ranks_by_layer_are_refused(exported: Path, arguments: list[str], tmp_path: Path) -> None:
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / file).write_bytes((exported / file).read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {"attn.qkv": 4}}))
    with pytest.raises(AdapterError, match="ranks that differ by layer cannot be read"):
        evaluate_trained(tmp_path, arguments)
