"""Adapters turned into LoRA adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from geopeft_cli.adapters.directory import read_adapter
from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.merge import foldable_layers
from geopeft_cli.contracts import official_name
from geopeft_cli.errors import GeopeftError, MergeError, MergeModeError, UsageError
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.export import export_trained
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.to_lora import convert_to_lora

FULL = 24  # the smallest side of every layer of the tiny backbone
CLOUDS = torch.randn(6, 128, 3, generator=torch.Generator().manual_seed(2))
ALL_APPROXIMATE = "calibrated-matrix, calibrated-scalar, dc, drop-k"


def logits(path: Path, overrides: Sequence[str] = ()) -> Tensor:
    with torch.no_grad():
        result: Tensor = open_trained(path, overrides).model(CLOUDS)
    return result


def assert_close(a: Tensor, b: Tensor) -> None:
    """Within 1e-5 of the root mean square of the logits."""
    assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.square().mean().sqrt()))


def updates(path: Path, mode: str) -> dict[str, np.ndarray]:
    layers = foldable_layers(open_trained(path).model)
    return {official_name(name): layer.dense_update(mode).weight.numpy() for name, layer in layers.items()}


def trained(recipe: Path, folder: Path, *overrides: str) -> Path:
    return finetune(recipe, [*overrides, "training.epochs=1"], folder).folder / "adapter"


@pytest.fixture(scope="module")
def monarch_adapter(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Monarch adapter with large updates; not to be changed."""
    return strengthened(
        trained(tiny_recipe, tmp_path_factory.mktemp("runs") / "a", "method={name: monarch, blocks: 4}")
    )


def strengthened(adapter: Path, parts: tuple[str, ...] = (".blkdiag2",)) -> Path:
    path = adapter / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith(parts):
            tensor.normal_(0, 0.3, generator=generator)
    save_file(tensors, path, read_header(path).metadata)
    return adapter


def test_full_rank_is_the_merged_model(monarch_adapter: Path, tmp_path: Path) -> None:
    merge_trained(monarch_adapter, tmp_path / "merged.safetensors")
    result = convert_to_lora(monarch_adapter, tmp_path / "lora", FULL)
    assert (result.rank, result.mode, result.errors) == (FULL, "exact", {})
    assert max(result.truncation.values()) < 1e-6
    assert len(result.truncation) == 4
    assert_close(logits(tmp_path / "lora"), logits(tmp_path / "merged.safetensors"))
    assert_close(logits(tmp_path / "lora"), logits(monarch_adapter))
    assert result.difference < 1e-5 * max(1.0, result.scale)
    assert result.accuracy is not None
    assert result.accuracy[0] == result.accuracy[1] == evaluate_trained(tmp_path / "lora").metrics["accuracy"]


@pytest.mark.parametrize("mode", ["drop-k", "dc", "calibrated-scalar"])
def test_full_rank_of_an_approximation_is_what_merging_by_it_gives(
    most_adapter: Path, tmp_path: Path, mode: str
) -> None:
    merged = merge_trained(most_adapter, tmp_path / "merged.safetensors", mode).merged
    result = convert_to_lora(most_adapter, tmp_path / "lora", FULL, mode)
    assert_close(logits(tmp_path / "lora"), logits(tmp_path / "merged.safetensors"))
    assert result.errors == pytest.approx(merged.errors)
    assert result.difference == pytest.approx(merged.difference, rel=1e-3)
    before, after = result.accuracy or (0.0, 0.0)
    assert before == evaluate_trained(most_adapter).metrics["accuracy"]
    assert after == evaluate_trained(tmp_path / "lora").metrics["accuracy"]


def test_errors_are_the_dropped_singular_values_and_fall_with_the_rank(most_adapter: Path, tmp_path: Path) -> None:
    exact = updates(most_adapter, "dc")
    last = dict.fromkeys(exact, 1.0)
    for rank in (1, 3, 9, 23):
        found = convert_to_lora(most_adapter, tmp_path / str(rank), rank, "dc").truncation
        for name, update in exact.items():
            values = np.linalg.svd(update, compute_uv=False)
            oracle = np.sqrt((values[rank:] ** 2).sum()) / np.linalg.norm(update)
            assert found[name] == pytest.approx(oracle, rel=1e-6)
            assert 1e-4 < found[name] < last[name]
        last = found


def test_the_directory_is_a_lora_adapter_like_any_other(monarch_adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    result = convert_to_lora(monarch_adapter, folder, 5)
    former, stored = read_adapter(monarch_adapter), read_adapter(folder)
    assert stored.manifest is not None
    assert former.manifest is not None
    method = stored.manifest.recipe["method"]
    assert method == {
        "name": "lora", "rank": 5, "alpha": 5.0, "dropout": 0.0, "rslora": False,
        "targets": ["attention_in", "mlp_in"], "tokens": "train",
    }  # fmt: skip
    for name in ("classes", "backbone", "base_sha256", "fresh", "selection", "versions", "merged"):
        assert getattr(stored.manifest, name) == getattr(former.manifest, name)
    assert result.accuracy is not None
    assert stored.manifest.metrics == {"test": {"accuracy": result.accuracy[1]}}
    origin = stored.manifest.origin or {}
    assert origin["method"] == former.manifest.recipe["method"]
    assert (origin["mode"], origin["truncation_errors"]) == ("exact", result.truncation)
    beside = {name for name in former.tensors if ".most." not in name}
    assert {name for name in stored.tensors if ".lora_" not in name} == beside
    assert all(torch.equal(stored.tensors[name], former.tensors[name]) for name in beside)
    assert evaluate_trained(folder).metrics["accuracy"] == result.accuracy[1]
    merge_trained(folder, tmp_path / "merged.safetensors")
    assert_close(logits(tmp_path / "merged.safetensors"), logits(folder))
    facts = inspect_path(str(folder)).facts
    assert facts["origin"]["method"]["name"] == "monarch"
    assert facts["method"].startswith("lora (")
    card = (folder / "README.md").read_text()
    assert "the LoRA of rank 5 nearest to an adapter of monarch (mode exact), not trained as such" in card


def test_peft_gives_the_same_logits(monarch_adapter: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    convert_to_lora(monarch_adapter, tmp_path / "lora", 5)
    assert json.loads((tmp_path / "lora/adapter_config.json").read_text())["peft_type"] == "LORA"
    assert export_trained(tmp_path / "lora", "peft", tmp_path / "export").verification.verified
    for folder in (tmp_path / "lora", tmp_path / "export"):
        plain = open_trained(tmp_path / "lora").model
        for name, layer in foldable_layers(plain).items():
            owner, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(owner), attribute, layer.base)
        loaded = peft.PeftModel.from_pretrained(plain, folder).eval()
        with torch.no_grad():
            assert_close(loaded(CLOUDS), logits(tmp_path / "lora"))
            assert float((loaded.base_model.model(CLOUDS) - logits(monarch_adapter)).abs().max()) > 1e-3


def test_a_lora_adapter_of_higher_rank_is_reduced(lora_adapter: Path, tmp_path: Path) -> None:
    found = convert_to_lora(lora_adapter, tmp_path / "same", 2)
    assert max(found.truncation.values()) < 1e-6
    assert_close(logits(tmp_path / "same"), logits(lora_adapter))
    assert min(convert_to_lora(lora_adapter, tmp_path / "less", 1).truncation.values()) > 0.1


def test_an_update_of_zero_is_exact_at_any_rank(tiny_recipe: Path, tmp_path: Path) -> None:
    overrides = ["training.lr=1e-30", "training.min_lr=0", "method={name: monarch, blocks: 4}"]
    adapter = trained(tiny_recipe, tmp_path / "run", *overrides)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        tensor.mul_(0 if name.endswith("blkdiag2") else 1)
    header = read_header(adapter / "adapter_model.safetensors").metadata
    save_file(tensors, adapter / "adapter_model.safetensors", header)
    assert set(convert_to_lora(adapter, tmp_path / "lora", 1).truncation.values()) == {0.0}
    assert_close(logits(tmp_path / "lora"), logits(adapter))


def test_the_same_bytes_twice(most_adapter: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert_to_lora(most_adapter, tmp_path / name, 4, "calibrated-scalar")
    for file in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_convolutions_and_frozen_class_tokens(tiny_recipe: Path, tmp_path: Path) -> None:
    method = "method={name: monarch, blocks: 4, targets: [encoder.first_conv.3], tokens: freeze}"
    adapter = strengthened(trained(tiny_recipe, tmp_path / "run", method))
    convert_to_lora(adapter, tmp_path / "lora", 128)
    stored = read_adapter(tmp_path / "lora")
    assert stored.tensors["encoder.first_conv.3.lora_A.weight"].shape == (128, 128, 1)
    assert stored.manifest is not None
    assert stored.manifest.recipe["method"]["tokens"] == "freeze"
    assert_close(logits(tmp_path / "lora"), logits(adapter))


@pytest.mark.parametrize(
    ("rank", "mode", "kind", "message", "hint"),
    [
        (2, "auto", MergeModeError, "--to-lora needs an update that is one matrix, and with method.lam other than 0 it "
         "is none", f"Name an approximation with --mode: {ALL_APPROXIMATE}."),
        (2, "exact", MergeModeError, "--to-lora needs an update that is one matrix, and with method.lam other than 0 "
         "it is none", f"Name an approximation with --mode: {ALL_APPROXIMATE}."),
        (2, "keep-k", MergeModeError, "--to-lora: mode keep-k does not make one matrix of the update here",
         f"Possible with --mode: {ALL_APPROXIMATE}."),
        (25, "dc", UsageError, "--to-lora 25: blocks.blocks.0.mlp.fc1 has a side of 24, and no matrix there a higher "
         "rank", "At most 24: the adapter has one rank for all layers."),
        (2, "calibrated-matrix", MergeError, "--to-lora: blocks.blocks.0.mlp.fc1: the update has a bias, and LoRA has "
         "no place for it", "Use --mode calibrated-scalar, or merge without --to-lora."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(
    most_adapter: Path, tmp_path: Path, rank: int, mode: str, kind: type[GeopeftError], message: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        convert_to_lora(most_adapter, tmp_path / "lora", rank, mode)
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert list(tmp_path.iterdir()) == []


def test_a_bias_has_no_place_unless_it_is_zero(tiny_recipe: Path, tmp_path: Path) -> None:
    method = "method={name: monarch, blocks: 4, bias: true}"
    adapter = strengthened(trained(tiny_recipe, tmp_path / "run", method))
    with pytest.raises(MergeError) as caught:
        convert_to_lora(adapter, tmp_path / "lora", 3)
    assert caught.value.message.endswith("mlp.fc1: the update has a bias, and LoRA has no place for it")
    assert caught.value.hint == "Merge without --to-lora, or train with method.bias=false."
    path = adapter / "adapter_model.safetensors"
    tensors = {name: t * (0 if name.endswith("most.bias") else 1) for name, t in load_file(path).items()}
    save_file(tensors, path, read_header(path).metadata)
    convert_to_lora(adapter, tmp_path / "lora", FULL)
    assert_close(logits(tmp_path / "lora"), logits(adapter))


@pytest.mark.parametrize("method", ["full", "bitfit", "linear_probe"])
def test_methods_without_layers_have_no_update(tiny_recipe: Path, tmp_path: Path, method: str) -> None:
    adapter = trained(tiny_recipe, tmp_path / "run", f"method={{name: {method}}}")
    with pytest.raises(UsageError) as caught:
        convert_to_lora(adapter, tmp_path / "lora", 3)
    assert caught.value.message == (f"--to-lora: {method} adapts no layers, so that there is no update to take apart")
    assert not (tmp_path / "lora").exists()


def test_a_merged_file_has_no_update(lora_adapter: Path, tmp_path: Path) -> None:
    merge_trained(lora_adapter, tmp_path / "merged.safetensors")
    with pytest.raises(UsageError, match="is merged already"):
        convert_to_lora(tmp_path / "merged.safetensors", tmp_path / "lora", 1)


def test_an_output_that_exists_is_left_alone(lora_adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/x").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        convert_to_lora(lora_adapter, tmp_path / "lora", 1)
    assert (tmp_path / "lora/x").read_text() == "precious"
