"""The bank of Point-PEFT: what decides it, when it is made again, and when it is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.assemble import Experiment, build
from geopeft_cli.contracts import memories
from geopeft_cli.data.clouds import MemoryClouds
from geopeft_cli.errors import AdapterError, UsageError
from geopeft_cli.methods.point_prior import Bank
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.verbs import finetune as module
from geopeft_cli.verbs import preparing
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.remembering import remember

CPU = torch.device("cpu")
CLOUDS = MemoryClouds(np.random.default_rng(0).normal(size=(12, 128, 3)), [0, 1, 2] * 4, ["a", "b", "c"])
OTHERS = MemoryClouds(np.random.default_rng(1).normal(size=(12, 128, 3)), [0, 1, 2] * 4, ["a", "b", "c"])
METHOD = "method={name: point_peft, prompts: 5, prompted_blocks: 1}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOPEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memories"


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clouds the frozen network was asked for, by batch."""
    sizes: list[int] = []
    describe = Bank.describe

    def counted(self: Bank, points: Any, geometry: Any = None) -> Any:
        if geometry is None:
            sizes.append(len(points))
        return describe(self, points, geometry)

    monkeypatch.setattr(Bank, "describe", counted)
    return sizes


def remembered(recipe: Path, *overrides: str, clouds: MemoryClouds = CLOUDS) -> tuple[Experiment, dict[str, Any]]:
    resolved = load_recipe(recipe, [METHOD, *overrides])
    experiment = build(resolved, clouds.classes)
    record = remember(experiment, clouds, CPU)
    assert record is not None
    return experiment, record


def columns(experiment: Experiment) -> torch.Tensor:
    (memory,) = memories(experiment.model).values()
    return memory.columns


def test_one_unit_column_a_training_cloud_in_their_order(tiny_recipe: Path) -> None:
    experiment, record = remembered(tiny_recipe)
    assert columns(experiment).shape == (24, 12) == (record["width"], record["columns"])
    assert record["bytes"] == 4 * 24 * 12
    torch.testing.assert_close(columns(experiment).norm(dim=0), torch.ones(12))


def test_augmentation_and_what_is_kept_mean_nothing_to_the_cache(tiny_recipe: Path, described: list[int]) -> None:
    remembered(tiny_recipe)
    assert sum(described) == 12
    again, _ = remembered(tiny_recipe, "data.augment=[rotate_y]", "method.bank_per_class=2", "training.lr=1e-2")
    assert sum(described) == 12  # from the cache, whatever is kept of it
    assert columns(again).shape == (24, 6)


def test_the_batch_size_means_nothing(tiny_recipe: Path, cache: Path) -> None:
    one, _ = remembered(tiny_recipe)
    (path,) = cache.iterdir()
    path.unlink()
    other, _ = remembered(tiny_recipe, "evaluation.batch_size=5")
    torch.testing.assert_close(columns(one), columns(other), atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", ["data.points=96", "backbone.group_size=6", "data.normalize=center"])
def test_other_clouds_and_settings_are_described_anew(tiny_recipe: Path, described: list[int], change: str) -> None:
    remembered(tiny_recipe)
    remembered(tiny_recipe, change)
    assert sum(described) == 24


def test_another_checkpoint_is_asked_anew(tiny_recipe: Path, tiny_base: Path, tmp_path: Path, cache: Path) -> None:
    remembered(tiny_recipe)
    tensors = load_file(tiny_base)
    name = next(name for name in tensors if name.endswith("norm.bias"))
    with safe_open(tiny_base, "pt") as file:
        metadata = file.metadata() or {}
    write_tensors(tmp_path / "other.safetensors", {**tensors, name: tensors[name] + 1}, metadata)
    remembered(tiny_recipe, f"backbone.checkpoint={tmp_path / 'other.safetensors'}")
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"no"), lambda path: path.write_bytes(path.read_bytes()[:-8])]
)
def test_a_damaged_file_of_the_cache_is_made_again(
    tiny_recipe: Path, cache: Path, described: list[int], caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    first, _ = remembered(tiny_recipe)
    (path,) = cache.iterdir()
    spoil(path)
    with caplog.at_level(logging.WARNING, "geopeft"):
        again, _ = remembered(tiny_recipe)
    assert "is damaged, or was made of other clouds" in caplog.text
    assert sum(described) == 24
    assert torch.equal(columns(first), columns(again))


def test_a_file_of_the_cache_under_another_name_is_not_taken(
    tiny_recipe: Path, cache: Path, described: list[int]
) -> None:
    remembered(tiny_recipe)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.unlink()
    remembered(tiny_recipe, clouds=OTHERS)
    (other,) = cache.iterdir()
    other.write_bytes(content)
    remembered(tiny_recipe, clouds=OTHERS)
    assert sum(described) == 36


def test_other_clouds_are_described(tiny_recipe: Path, described: list[int]) -> None:
    first, record = remembered(tiny_recipe)
    other, of_others = remembered(tiny_recipe, clouds=OTHERS)
    assert sum(described) == 24
    assert record["clouds_sha256"] != of_others["clouds_sha256"]
    assert not torch.equal(columns(first), columns(other))


def test_too_few_clouds(tiny_recipe: Path) -> None:
    few = MemoryClouds(torch.rand(2, 128, 3).numpy(), [0, 1], ["a", "b"])
    with pytest.raises(UsageError, match="look up 3 training clouds, the bank has 2"):
        remembered(tiny_recipe, clouds=few)


@pytest.fixture
def run(tiny_recipe: Path, tmp_path: Path) -> Path:
    return finetune(tiny_recipe, [METHOD, "training.epochs=1"], tmp_path / "run").folder


def test_the_bank_travels_with_the_adapter(run: Path, cache: Path) -> None:
    for path in cache.iterdir():
        path.unlink()
    before = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test"]["accuracy"]
    assert evaluate_trained(run).metrics["accuracy"] == before
    assert not list(cache.iterdir())
    facts = inspect_path(str(run)).facts
    assert facts["memory"].startswith("42 columns x 24 of 42 training clouds, float32, 0.00 MB; SHA-256 ")


@pytest.mark.parametrize("change", ["columns", "network_sha256"])
def test_another_bank_in_the_adapter_is_refused(run: Path, change: str) -> None:
    path = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if change == "columns":
        tensors["base_model.model.bank.columns"] = tensors["base_model.model.bank.columns"].flip(1)
    else:
        record = json.loads(metadata["geopeft"])
        record["memory"]["network_sha256"] = 64 * "0"
        metadata["geopeft"] = json.dumps(record)
    write_tensors(path, tensors, metadata)
    with pytest.raises(AdapterError, match=r"bank (holds another memory|was described by another network)"):
        evaluate_trained(run)


def test_a_run_does_not_go_on_with_other_clouds(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "describe_selection", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(tiny_recipe, [METHOD, "training.epochs=1"], tmp_path / "run")
    original = preparing.load_splits

    def changed(recipe: Any) -> Any:
        splits = original(recipe)
        train = splits.train
        points = [train[index].points[:, [1, 0, 2]] for index in range(len(train))]
        splits.train = MemoryClouds(points, train.labels(), train.classes)
        return splits

    monkeypatch.setattr(preparing, "load_splits", changed)
    with pytest.raises(UsageError, match="the training clouds or the checkpoint are not those"):
        finetune(tiny_recipe, [METHOD, "training.epochs=1"], tmp_path / "run", resume=True)
