"""Damaged, foreign and hostile checkpoints and adapters."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.header import read_header

Refused = Callable[..., str]
TENSORS = "adapter_model.safetensors"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside") / "ran"


@pytest.mark.parametrize("container", ["bare", "base_model", "old"])
def test_a_pickle_that_tries_to_run_code(
    refused: Refused, tiny_recipe: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, container: str
) -> None:
    ran, path = outside(tmp_path_factory), tmp_path / "evil.pth"
    evil = {"blocks.blocks.0.attn.qkv.weight": Evil(ran)}
    if container == "old":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil if container == "bare" else {container: evil}, path)
    for arguments in (("finetune", tiny_recipe, f"backbone.checkpoint={path}"), ("inspect", path)):
        message = refused(*arguments, code=1)
        assert str(path) in message
        assert "nothing of it was run" in message or container == "old"
    assert not ran.exists()
    with path.open("rb") as file:
        (torch.load(file, weights_only=False) if container != "old" else pickle.load(file))
    assert ran.exists(), "the file is harmless: the test shows nothing"


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("left", [0, 5, 0.5, 0.999])
def test_a_truncated_checkpoint(
    refused: Refused, tiny_recipe: Path, tiny_base: Path, tmp_path: Path, kind: str, left: float
) -> None:
    path = tmp_path / f"base.{kind}"
    if kind == "pth":
        torch.save({"base_model": load_file(tiny_base)}, path)
    else:
        shutil.copy(tiny_base, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    message = refused("finetune", tiny_recipe, f"backbone.checkpoint={path}", "backbone.heads=4", code=1)
    assert message.startswith(f"error: {path} ")
    assert message.endswith("\nCopy or download it again.\n")
    assert len(message.splitlines()) == 2


def test_a_checkpoint_of_another_architecture_is_named(
    refused: Refused, tiny_recipe: Path, tiny_base: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bert.pth"
    torch.save({f"transformer_q.{name}": tensor for name, tensor in load_file(tiny_base).items()}, path)
    message = refused("finetune", tiny_recipe, f"backbone.checkpoint={path}", code=1)
    assert "no key matches point_mae; it looks like Point-BERT" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("MAE_encoder.norm.weight"), "missing: norm.weight"),
        (lambda t: t.update({"MAE_encoder.surprise": torch.ones(1)}), "unexpected: surprise"),
        (lambda t: t.update({"MAE_encoder.norm.weight": torch.ones(9)}), "norm.weight (9,) instead of (24,)"),
        (lambda t: t["MAE_encoder.norm.weight"].fill_(float("nan")), "not finite: norm.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    refused: Refused, tiny_recipe: Path, tiny_base: Path, tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    tensors = load_file(tiny_base)
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors", read_header(tiny_base).metadata)
    assert words in refused("finetune", tiny_recipe, "backbone.checkpoint=x.safetensors", code=1)


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1, 2], {"state_dict": {}}])
def test_a_file_without_tensors(refused: Refused, tiny_recipe: Path, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert "holds no tensors" in refused("finetune", tiny_recipe, "backbone.checkpoint=x.pth", code=1)


def test_a_file_with_another_digest(refused: Refused, tiny_recipe: Path) -> None:
    message = refused("finetune", tiny_recipe, f"backbone.sha256={'a' * 64}", code=1)
    assert f"the recipe says {'a' * 64}" in message


def every_verb(refused: Refused, adapter: Path, code: int) -> set[str]:
    return {
        refused("eval", adapter, code=code),
        refused("merge", adapter, "--output", "merged.safetensors", code=code),
        refused("export", adapter, "--format", "official", "--output", "official.safetensors", code=code),
    }


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_truncated_adapter(refused: Refused, adapter: Path, left: int) -> None:
    path = adapter / TENSORS
    path.write_bytes(path.read_bytes()[:left])
    (message,) = every_verb(refused, adapter, 1) | {refused("inspect", adapter, code=1)}
    assert message.startswith(f"error: {path} is ")


def test_an_adapter_with_nan(refused: Refused, adapter: Path) -> None:
    tensors, metadata = load_file(adapter / TENSORS), read_header(adapter / TENSORS).metadata
    tensors["base_model.model.cls_pos"][0, 0, 3] = float("nan")
    save_file(tensors, adapter / TENSORS, metadata)
    (message,) = every_verb(refused, adapter, 1)
    assert "base_model.model.cls_pos holds values that are not finite" in message


def test_an_adapter_for_another_base(refused: Refused, adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_base)
    tensors["MAE_encoder.norm.bias"][0] += 0.01
    save_file(tensors, tmp_path / "other.safetensors", read_header(tiny_base).metadata)
    for arguments in (("eval", adapter), ("merge", adapter, "--output", "m.safetensors")):
        message = refused(*arguments, "backbone.checkpoint=other.safetensors", code=1)
        assert "was made for a base with SHA-256" in message
        assert "Give its own base with backbone.checkpoint=PATH." in message


def test_an_adapter_whose_base_has_gone(refused: Refused, adapter: Path) -> None:
    message = refused("eval", adapter, "backbone.checkpoint=gone.safetensors", code=2)
    assert "no file gone.safetensors" in message


@pytest.mark.parametrize("missing", ["adapter_config.json", TENSORS])
def test_an_incomplete_adapter(refused: Refused, adapter: Path, missing: str) -> None:
    (adapter / missing).unlink()
    code = 2 if missing == "adapter_config.json" else 1
    (message,) = {message.splitlines()[0] for message in every_verb(refused, adapter, code)}
    assert message in (f"error: {adapter} holds no adapter", f"error: no file {adapter / TENSORS}")


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}"])
def test_a_damaged_configuration(refused: Refused, adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    (message,) = every_verb(refused, adapter, 1) | {refused("inspect", adapter, code=1)}
    assert str(adapter / "adapter_config.json") in message


def test_an_adapter_without_a_record(refused: Refused, adapter: Path) -> None:
    save_file(load_file(adapter / TENSORS), adapter / TENSORS, {"format": "pt"})
    (message,) = every_verb(refused, adapter, 1)
    assert "describes GEOPEFT_MOST, not LORA" in message


@pytest.mark.parametrize("key", ["method", "data"])
def test_a_record_with_a_recipe_of_something_else(refused: Refused, adapter: Path, key: str) -> None:
    metadata = read_header(adapter / TENSORS).metadata
    text = metadata["geopeft"].replace(f'"{key}": {{', f'"{key}": {{"surprise": 1, ')
    save_file(load_file(adapter / TENSORS), adapter / TENSORS, {**metadata, "geopeft": text})
    (message,) = every_verb(refused, adapter, 2)
    assert f"unknown key '{key}.surprise'" in message
    assert f"the recipe in {adapter}" in message


def test_a_run_that_is_not_finished(refused: Refused, most_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(most_run, folder, ignore=shutil.ignore_patterns("adapter"))
    (message,) = every_verb(refused, folder, 2) | {refused("inspect", folder, code=2)}
    assert "The run is not finished: go on with geopeft finetune" in message
    assert "--resume" in message
