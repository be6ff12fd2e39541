"""Merging adapters into files, and what the files are good for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.manifest import HEADER_KEY
from geopeft_cli.errors import AdapterError, CheckpointError, MergeError, UsageError
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import open_trained

APPROXIMATE = ("drop-k", "dc", "calibrated-scalar", "calibrated-matrix")


def logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = open_trained(path).model(
            torch.randn(6, 128, 3, generator=torch.Generator().manual_seed(2))
        )
    return result


def record(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(read_header(path).metadata[HEADER_KEY])["merged"]
    return found


def official_names(base: Path) -> set[str]:
    own = {name.removeprefix("MAE_encoder.") for name in load_file(base)} | {"cls_token", "cls_pos"}
    return own | {f"cls_head_finetune.{layer}.{part}" for layer in (0, 4, 8) for part in ("weight", "bias")} | {
        f"cls_head_finetune.{layer}.{part}"
        for layer in (1, 5)
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["auto", "exact"])
def test_lora_folds_exactly_into_the_official_layout(
    lora_adapter: Path, tiny_base: Path, tmp_path: Path, mode: str
) -> None:
    output = tmp_path / "merged.safetensors"
    result = merge_trained(lora_adapter, output, mode)
    merged = result.merged
    assert (merged.mode, merged.exact, merged.layers, merged.errors) == ("exact", True, 8, {})
    assert merged.choices == {"exact": True}
    assert result.accuracy is None
    assert result.clouds.endswith("clouds of the training split")
    assert set(load_file(output)) == official_names(tiny_base)
    assert record(output)["mode"] == "exact"
    assert record(output)["largest_logit_difference"] == merged.difference < 1e-4
    torch.testing.assert_close(logits(output), logits(lora_adapter), rtol=1e-4, atol=1e-5)
    before = load_file(tiny_base)["MAE_encoder.blocks.blocks.0.mlp.fc1.weight"].float()
    assert (load_file(output)["blocks.blocks.0.mlp.fc1.weight"] - before).abs().max() > 0.01


@pytest.mark.parametrize("mode", ["auto", "keep-k"])
def test_most_keeps_its_geometric_remainder(most_adapter: Path, tiny_base: Path, tmp_path: Path, mode: str) -> None:
    output = tmp_path / "merged.safetensors"
    merged = merge_trained(most_adapter, output, mode).merged
    assert (merged.mode, merged.exact, merged.layers) == ("keep-k", True, 4)
    assert merged.choices == {"exact": False} | dict.fromkeys(sorted(APPROXIMATE), False)
    beside = set(load_file(output)) - official_names(tiny_base)
    assert beside
    assert all(".most.blkdiag" in name for name in beside)
    torch.testing.assert_close(logits(output), logits(most_adapter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", APPROXIMATE)
def test_approximations_say_how_far_off_they_are(
    most_adapter: Path, tiny_base: Path, tmp_path: Path, mode: str
) -> None:
    output = tmp_path / "merged.safetensors"
    result = merge_trained(most_adapter, output, mode)
    assert (result.merged.mode, result.merged.exact) == (mode, False)
    assert set(load_file(output)) == official_names(tiny_base)
    sites = {f"blocks.blocks.{block}.{layer}" for block in (0, 1) for layer in ("attn.qkv", "mlp.fc1")}
    assert set(result.merged.errors) == sites
    assert all(0.001 < error < 1 for error in result.merged.errors.values())
    assert result.accuracy is not None
    before, after = result.accuracy
    assert before == evaluate_trained(most_adapter).metrics["accuracy"]
    assert after == evaluate_trained(output).metrics["accuracy"]
    kept = record(output)
    assert kept["layer_errors"] == result.merged.errors
    assert kept["test_accuracy"] == {"unmerged": before, "merged": after}
    assert (logits(output) - logits(most_adapter)).abs().max() > 1e-4


def test_calibration_is_the_best_of_the_approximations(most_adapter: Path, tmp_path: Path) -> None:
    means = {}
    for mode in APPROXIMATE:
        errors = merge_trained(most_adapter, tmp_path / f"{mode}.safetensors", mode).merged.errors
        means[mode] = sum(errors.values()) / len(errors)
    assert min(means, key=lambda mode: means[mode]) == "calibrated-matrix"


def test_no_exact_fold_where_lambda_is_not_zero(most_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeError) as caught:
        merge_trained(most_adapter, tmp_path / "x.safetensors", "exact")
    assert caught.value.message == "no exact fold exists: method.lam is not 0"
    assert caught.value.hint == "Exact: keep-k, stacked. Approximate: calibrated-matrix, calibrated-scalar, dc, drop-k."
    assert list(tmp_path.iterdir()) == []


def test_a_mode_that_a_method_does_not_have(lora_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"mode drop-k is not possible here\nExact: exact\. Approximate: none"):
        merge_trained(lora_adapter, tmp_path / "x.safetensors", "drop-k")


@pytest.mark.parametrize("lam", ["method.lam=0.0", "method.sides=0"])
def test_most_without_geometry_folds_exactly(tiny_recipe: Path, tmp_path: Path, lam: str) -> None:
    run = finetune(tiny_recipe, [lam, "training.epochs=1"], tmp_path / "run")
    assert merge_trained(run.folder, tmp_path / "x.safetensors").merged.mode == "exact"


def test_methods_that_add_nothing_merge_by_writing_what_they_are(tiny_recipe: Path, tmp_path: Path) -> None:
    run = finetune(tiny_recipe, ["method={name: bitfit}", "training.epochs=1"], tmp_path / "run")
    output = tmp_path / "x.safetensors"
    merged = merge_trained(run.folder, output).merged
    assert (merged.mode, merged.layers, merged.difference) == ("exact", 0, 0.0)
    assert torch.equal(logits(output), logits(run.folder))


@pytest.mark.parametrize("kind", ["most", "lora"])
def test_a_merged_file_is_measured_like_its_adapter(
    kind: str, most_adapter: Path, lora_adapter: Path, tmp_path: Path
) -> None:
    adapter, output = {"most": most_adapter, "lora": lora_adapter}[kind], tmp_path / "merged.safetensors"
    merge_trained(adapter, output)
    assert evaluate_trained(output) == evaluate_trained(adapter)
    found = inspect_path(str(output))
    assert found.kind == "merged"
    assert found.facts["merged"]["exact"] is True
    with pytest.raises(UsageError, match="is merged already"):
        merge_trained(output, tmp_path / "again.safetensors")


def test_an_exact_merge_is_a_base_for_the_next_run(lora_adapter: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    base = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, base)
    assert inspect_path(str(base)).facts["classes"] == open_trained(lora_adapter).manifest.classes
    overrides = [
        f"backbone.checkpoint={base}", "task.head_from=checkpoint", "training.lr=1e-12", "training.weight_decay=0",
        "method={name: linear_probe, tokens: freeze}", "training.epochs=1", "training.min_lr=0",
    ]  # fmt: skip
    run = finetune(tiny_recipe, overrides, tmp_path / "run")
    assert "fresh" not in run.summary
    manifest = open_trained(run.folder).manifest
    assert manifest.fresh == []
    # all but the statistics of the head's norms stood still
    before, after = open_trained(lora_adapter).model, open_trained(run.folder).model
    torch.testing.assert_close(
        after.get_parameter("cls_head_finetune.8.weight"), before.get_parameter("cls_head_finetune.8.weight")
    )
    clouds = torch.randn(2, 128, 3)
    torch.testing.assert_close(after.encode(clouds).features, before.encode(clouds).features, rtol=1e-4, atol=1e-5)


def test_a_merge_with_remainder_is_no_base_for_others(most_adapter: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    base = tmp_path / "merged.safetensors"
    merge_trained(most_adapter, base)
    with pytest.raises(CheckpointError, match=r"unexpected: .*most\.blkdiag1"):
        finetune(tiny_recipe, [f"backbone.checkpoint={base}"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_that_exists_is_left_alone(lora_adapter: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "x.safetensors"
    if kind == "file":
        output.write_text("precious")
    else:
        output.mkdir()
        (output / "y").write_text("precious")
    with pytest.raises(UsageError, match="exists\nChoose another --output"):
        merge_trained(lora_adapter, output)
    assert (output if kind == "file" else output / "y").read_text() == "precious"


def test_an_empty_folder_is_not_a_place_for_a_file(lora_adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    output.mkdir()
    with pytest.raises(UsageError, match="exists"):
        merge_trained(lora_adapter, output)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("name", ["merged", "merged.pth"])
def test_a_merged_checkpoint_is_a_safetensors_file(lora_adapter: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is a \.safetensors file"):
        merge_trained(lora_adapter, tmp_path / name)


def test_a_merged_file_that_lost_a_tensor(lora_adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, output)
    tensors = load_file(output)
    del tensors["norm.bias"]
    save_file(tensors, output, read_header(output).metadata)
    with pytest.raises(AdapterError, match="does not hold the model that its record describes: norm"):
        open_trained(output)


def test_merging_twice_gives_the_same_bytes(most_adapter: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.safetensors" for index in range(2)]
    for file in files:
        merge_trained(most_adapter, file, "calibrated-scalar")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_data_that_is_not_here_is_replaced_by_simulated_scans(most_adapter: Path, tmp_path: Path) -> None:
    overrides = [f"data={{format: folder, root: {tmp_path / 'gone'}, points: 128}}"]
    result = merge_trained(most_adapter, tmp_path / "x.safetensors", "dc", overrides)
    assert result.clouds.endswith("simulated, since the recipe's data is not here")
    assert result.accuracy is None
