"""The adapter directory: what is in it, that it comes whole or not at all, and that loading is strict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.directory import adapter_names, adapter_state, load_adapter, read_adapter, save_adapter
from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.assemble import Experiment, rebuild
from geopeft_cli.contracts import official_state
from geopeft_cli.errors import AdapterError, GeopeftError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.verbs.preparing import prepare

TENSORS = "adapter_model.safetensors"
TOKENS = {"cls_token", "cls_pos"}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
HEAD = {f"cls_head_finetune.{layer}.{part}" for layer in (0, 4, 8) for part in ("weight", "bias")} | {
    f"cls_head_finetune.{layer}.{part}" for layer in (1, 5) for part in NORM
}
Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def experiment(tiny_recipe: Path) -> Callable[..., Experiment]:
    """``experiment(*overrides)``: the untrained model of the tiny recipe."""
    return lambda *overrides: prepare(load_recipe(tiny_recipe, overrides))[1]


@pytest.fixture
def adapter(most_run: Path, tmp_path: Path) -> Path:
    """A copy of a MoST adapter, for a test to damage."""
    return Path(shutil.copytree(most_run / "adapter", tmp_path / "adapter"))


def rewrite(folder: Path, change: Change) -> None:
    """Change the tensors of an adapter and leave its record."""
    metadata = read_header(folder / TENSORS).metadata
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS, metadata)


def sites(*layers: str) -> list[str]:
    return [f"blocks.blocks.{block}.{layer}" for block in (0, 1) for layer in layers]


MOST = {f"{site}.most.{factor}" for site in sites("attn.qkv", "mlp.fc1") for factor in ("blkdiag1", "blkdiag2")}
LORA = {f"{site}.lora_{factor}.weight" for site in sites("mlp.fc2") for factor in "AB"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), MOST | TOKENS | HEAD),
        (("method.bias=true",), MOST | TOKENS | HEAD | {f"{site}.most.bias" for site in sites("attn.qkv", "mlp.fc1")}),
        (("method={name: monarch, blocks: 4}",), MOST | TOKENS | HEAD),
        (("method={name: lora, targets: [mlp_out]}",), LORA | TOKENS | HEAD),
        (("method={name: linear_probe}",), TOKENS | HEAD),
        (
            ("method={name: linear_probe, tokens: freeze}", "task.head=linear"),
            TOKENS | {"cls_head_finetune.0.weight", "cls_head_finetune.0.bias"},
        ),
        (("task.fusion={layers: 2, affine: true}",), MOST | TOKENS | HEAD | {"fusion.norm.weight", "fusion.norm.bias"}),
    ],
)  # fmt: skip
def test_holds_exactly_what_trains_the_head_and_what_the_base_lacks(
    experiment: Callable[..., Experiment], overrides: tuple[str, ...], expected: set[str]
) -> None:
    built = experiment(*overrides)
    assert set(adapter_names(built.model, built.fresh)) == expected


def test_full_fine_tuning_holds_everything(experiment: Callable[..., Experiment]) -> None:
    built = experiment("method={name: full}")
    assert set(adapter_names(built.model, built.fresh)) == set(official_state(built.model))
    assert "encoder.first_conv.1.running_mean" in adapter_names(built.model, built.fresh)


def test_bitfit_holds_biases_and_statistics_only_of_norms_that_move(experiment: Callable[..., Experiment]) -> None:
    built = experiment("method={name: bitfit}")
    names = set(adapter_names(built.model, built.fresh)) - HEAD - TOKENS
    assert {name.rpartition(".")[2] for name in names} == {"bias"}
    assert "encoder.first_conv.1.bias" in names


def test_the_state_is_a_copy(experiment: Callable[..., Experiment]) -> None:
    built = experiment()
    state = adapter_state(built.model, built.fresh)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], kept[name]) for name in state)


def test_a_run_leaves_three_files_and_nothing_frozen(most_run: Path) -> None:
    folder = most_run / "adapter"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "adapter_config.json", TENSORS]
    assert {name.removeprefix("base_model.model.") for name in load_file(folder / TENSORS)} == MOST | TOKENS | HEAD
    stored = read_adapter(folder)
    assert stored.manifest is not None
    assert stored.manifest.fresh == ["cls_token", "cls_pos"]
    assert stored.manifest.recipe["seed"] == 0
    assert set(stored.manifest.versions) == {"geopeft", "torch", "numpy", "python"}
    assert len(stored.manifest.classes) == len(set(stored.manifest.classes)) >= 10
    assert stored.manifest.backbone["width"] == 24


def test_every_file_may_be_read_by_others(most_run: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o444 for path in (most_run / "adapter").iterdir()}
    assert set(modes.values()) == {0o444}


def test_loading_gives_the_same_tensors(most_run: Path) -> None:
    stored = read_adapter(most_run / "adapter")
    assert stored.manifest is not None
    model = rebuild(load_recipe(most_run / "recipe.yaml"), stored).model
    state = official_state(model)
    assert not model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.tensors.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("base_model.model.cls_token"), "lacks cls_token"),
        (lambda t: t.pop("base_model.model.cls_head_finetune.1.running_var"), "lacks cls_head_finetune.1.running_var"),
        (lambda t: t.update({"base_model.model.norm.weight": torch.ones(24)}), "has unexpected norm.weight"),
        (lambda t: t.update({"base_model.model.cls_pos": torch.ones(1, 1, 23)}), "has another shape for cls_pos"),
    ],
)
def test_loading_is_strict_both_ways(adapter: Path, most_run: Path, change: Change, message: str) -> None:
    rewrite(adapter, change)
    with pytest.raises(AdapterError) as caught:
        rebuild(load_recipe(most_run / "recipe.yaml"), read_adapter(adapter))
    assert caught.value.message == f"{adapter} {message}"


def test_a_refused_adapter_changes_nothing(experiment: Callable[..., Experiment]) -> None:
    built = experiment()
    before = {name: tensor.clone() for name, tensor in official_state(built.model).items()}
    tensors = adapter_state(built.model, built.fresh)
    tensors = {name: tensor + 1 for name, tensor in tensors.items()} | {"cls_pos": torch.ones(2)}
    with pytest.raises(AdapterError):
        load_adapter(built.model, tensors, built.fresh, "x")
    assert all(torch.equal(before[name], tensor) for name, tensor in official_state(built.model).items())


def test_many_missing_names_are_counted(experiment: Callable[..., Experiment]) -> None:
    built = experiment()
    with pytest.raises(AdapterError, match=r"x lacks .*, .*, .*, .* and \d+ more") as caught:
        load_adapter(built.model, {}, built.fresh, "x")
    assert caught.value.message.count(",") == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(adapter: Path, value: float) -> None:
    name = "base_model.model.blocks.blocks.1.mlp.fc1.most.blkdiag2"
    rewrite(adapter, lambda tensors: tensors[name].view(-1).__setitem__(5, value))
    with pytest.raises(AdapterError, match=f"{name} holds values that are not finite"):
        read_adapter(adapter)


def test_another_base_is_refused(adapter: Path, tiny_base: Path, tmp_path: Path, most_run: Path) -> None:
    tensors = load_file(tiny_base)
    tensors["MAE_encoder.norm.bias"][0] += 0.01
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, read_header(tiny_base).metadata)
    recipe = load_recipe(most_run / "recipe.yaml", [f"backbone.checkpoint={other}"])
    with pytest.raises(AdapterError, match="was made for a base with SHA-256") as caught:
        rebuild(recipe, read_adapter(adapter))
    assert str(other) in caught.value.message
    assert caught.value.hint == "Give its own base with backbone.checkpoint=PATH."


def test_the_same_base_in_another_file_is_accepted(
    adapter: Path, tiny_base: Path, tmp_path: Path, most_run: Path
) -> None:
    torch.save({"base_model": {f"module.{k}": v for k, v in load_file(tiny_base).items()}}, tmp_path / "base.pth")
    recipe = load_recipe(most_run / "recipe.yaml", [f"backbone.checkpoint={tmp_path / 'base.pth'}", "backbone.heads=4"])
    assert rebuild(recipe, read_adapter(adapter)).fresh == ("cls_token", "cls_pos")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no "),
        ("{", "cannot be read"),
        ("[]", "is not an adapter configuration"),
        ('{"r": 8}', "it has no peft_type"),
        ('{"peft_type": 5}', "it has no peft_type"),
        ('{"peft_type": "LORA"}', "peft_type is 'LORA', the adapter was trained with 'GEOPEFT_MOST'"),
    ],
)
def test_configurations(adapter: Path, content: str | None, message: str) -> None:
    path = adapter / "adapter_config.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(AdapterError, match=message):
        read_adapter(adapter)


@pytest.mark.parametrize(("key", "value"), [("lora_alpha", 16.0), ("r", 4), ("use_rslora", True)])
def test_a_changed_lora_configuration_is_seen(lora_run: Path, tmp_path: Path, key: str, value: Any) -> None:
    """Hugging Face peft computes something else then, and says nothing."""
    folder = Path(shutil.copytree(lora_run / "adapter", tmp_path / "lora"))
    read_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(AdapterError, match=f"{key} is {value!r}, the adapter was trained with"):
        read_adapter(folder)


def test_a_directory_written_by_peft(parity_root: Path) -> None:
    folder = parity_root / "peft_interop"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    home = next(path.parent for path in sorted(folder.rglob("adapter_config.json")))
    stored = read_adapter(home)
    assert stored.manifest is None
    assert stored.config["peft_type"] == "LORA"
    assert any(name.endswith("attn.qkv.lora_A.weight") for name in stored.tensors)
    with pytest.raises(AdapterError, match="has no record of geopeft"):
        rebuild(load_recipe("quickstart"), stored)


def test_tensors_without_the_prefix_are_not_of_this_layout(adapter: Path) -> None:
    rewrite(adapter, lambda tensors: tensors.update({"stray": torch.ones(1)}))
    with pytest.raises(AdapterError, match="stray does not begin with base_model"):
        read_adapter(adapter)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_crash_while_saving_leaves_the_former_adapter(
    adapter: Path, experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    built = experiment()
    stored = read_adapter(adapter)
    assert stored.manifest is not None

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("geopeft_cli.adapters.directory.write_config", fail)
    expected = GeopeftError if isinstance(error, OSError) else type(error)
    manifest: Manifest = replace(stored.manifest, classes=["other"])
    with pytest.raises(expected):
        save_adapter(adapter, built.model, adapter_state(built.model, built.fresh), manifest, "most", {}, "card")
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert [path.name for path in adapter.parent.iterdir()] == [adapter.name]


def test_saving_over_an_adapter_replaces_all_of_it(adapter: Path, experiment: Callable[..., Experiment]) -> None:
    (adapter / "stray.txt").write_text("x")
    manifest = read_adapter(adapter).manifest
    assert manifest is not None
    built = experiment()
    save_adapter(adapter, built.model, adapter_state(built.model, built.fresh), manifest, "most", {}, "the card")
    assert sorted(path.name for path in adapter.iterdir()) == ["README.md", "adapter_config.json", TENSORS]
    assert (adapter / "README.md").read_text() == "the card"
    assert [path.name for path in adapter.parent.iterdir()] == [adapter.name]
    assert Manifest.from_text(read_header(adapter / TENSORS).metadata[HEADER_KEY], "x") == manifest


def test_the_bytes_of_a_file_are_those_of_its_content(tmp_path: Path) -> None:
    """The order that the library gives the metadata differs from call to call."""
    tensors = {"ä": torch.ones(2), "b": torch.zeros(1, dtype=torch.bfloat16)}
    metadata = {f"key {index}": f'"{index}" ö' for index in range(9)}
    written = []
    for index in range(4):
        path = tmp_path / str(index)
        write_tensors(path, tensors, dict(sorted(metadata.items(), key=lambda item: hash((index, item[0])))))
        written.append(path.read_bytes())
        assert read_header(path).metadata == metadata
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(path).items())
    assert len(set(written)) == 1
