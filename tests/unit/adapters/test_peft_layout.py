"""``adapter_config.json``, and finding an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geopeft_cli.adapters.peft_layout import (
    LoRAConfig,
    adapted_modules,
    check_config,
    find_adapter,
    lora_config,
    read_config,
    write_config,
)
from geopeft_cli.errors import AdapterError, UsageError

PEFT = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["qkv", "proj"],
    "modules_to_save": None,
    "bias": "none",
    "use_dora": False,
    "rank_pattern": {"blocks.0.qkv": 2},
    "alpha_pattern": {},
}
SETTINGS = {"rank": 2, "alpha": 3.5, "dropout": 0.25, "rslora": True, "targets": ["mlp_in"]}


def test_a_lora_configuration_is_that_of_peft(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    write_config(path, "lora", SETTINGS, ["b.fc1", "a.fc1"], ["head"], "base.pth")
    assert json.loads(path.read_text()) == {
        "base_model_name_or_path": "base.pth",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 3.5,
        "lora_dropout": 0.25,
        "modules_to_save": ["head"],
        "peft_type": "LORA",
        "r": 2,
        "revision": None,
        "target_modules": ["a.fc1", "b.fc1"],
        "task_type": None,
        "use_rslora": True,
    }
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n"
    assert lora_config(read_config(path), path) == LoRAConfig(2, 3.5, True, 0.25, ("a.fc1", "b.fc1"), ("head",))
    check_config(read_config(path), {"name": "lora", **SETTINGS}, path)


def test_other_methods_have_a_type_that_peft_refuses(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    write_config(path, "most", {}, ["qkv"], [], "base.pth")
    config = read_config(path)
    assert config["peft_type"] == "GEOPEFT_MOST"
    assert "r" not in config
    with pytest.raises(AdapterError, match="describes GEOPEFT_MOST, not LORA"):
        lora_config(config, path)


def test_a_configuration_of_peft(tmp_path: Path) -> None:
    found = lora_config(PEFT, tmp_path)
    assert found == LoRAConfig(4, 8.0, False, 0.0, ("qkv", "proj"), (), {"blocks.0.qkv": 2}, {})
    assert lora_config({**PEFT, "target_modules": r".*\.qkv"}, tmp_path).target_modules == r".*\.qkv"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"r": None}, "is missing or wrong"),
        ({"r": "many"}, "is missing or wrong"),
        ({"target_modules": None}, "is missing or wrong"),
        ({"rank_pattern": {"a": "b"}}, "is missing or wrong"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        lora_config({**PEFT, **change}, tmp_path)


def test_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="'lora_alpha' is missing or wrong"):
        lora_config({key: value for key, value in PEFT.items() if key != "lora_alpha"}, tmp_path)


def test_adapted_modules_are_found_by_their_factors() -> None:
    names = ["b.qkv.lora_A.weight", "b.qkv.lora_B.weight", "a.fc.lora_A.weight", "a.fc.lora_B.weight", "head.weight"]
    assert adapted_modules(names) == ("b.qkv", "a.fc")


def test_an_adapter_is_found_in_a_run_or_as_such(most_run: Path) -> None:
    assert find_adapter(most_run) == find_adapter(most_run / "adapter") == most_run / "adapter"


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run or adapter at"):
        find_adapter(tmp_path / "none")
    with pytest.raises(UsageError, match="Give a run folder or an adapter directory"):
        find_adapter(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(UsageError, match="The run is not finished"):
        find_adapter(tmp_path)
