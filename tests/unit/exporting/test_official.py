"""Checkpoints in the official layout: their form, what comes back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.merge import merge
from geopeft_cli.backbones.checkpoint import infer_sizes, read_checkpoint
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Wrapper, official_state
from geopeft_cli.errors import ExportError
from geopeft_cli.exporting import official
from geopeft_cli.exporting.official import export_official, official_tensors
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import MoST
from geopeft_cli.tasks.classification import Classification

Build = Callable[..., PointMAE]


def test_pth_has_the_container_of_the_authors(build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path) -> None:
    model, path = build(), tmp_path / "model.pth"
    result = export_official(model, path, clouds, manifest)
    content = torch.load(path, weights_only=True)
    assert set(content) == {"base_model", "epoch", "metrics", "best_metrics"}
    assert content["epoch"] == 7
    assert content["metrics"] == content["best_metrics"] == {"acc": 91.25}
    state = model.state_dict()
    assert list(content["base_model"]) == list(state)
    assert all(torch.equal(content["base_model"][name], state[name]) for name in state)
    assert result.difference == 0.0
    assert result.verified
    assert result.file_bytes == path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_safetensors_is_flat_and_tells_the_number_of_heads(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    model, path = build(), tmp_path / "model.safetensors"
    export_official(model, path, clouds, manifest)
    checkpoint = read_checkpoint(str(path), model.name, model.layout)
    assert infer_sizes(checkpoint, {}) == {"width": 24, "depth": 2, "heads": 4}
    state = model.state_dict()
    assert {*checkpoint.backbone, *checkpoint.head} == set(state)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == manifest.classes


def test_a_run_without_figures_is_written_all_the_same(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    manifest.metrics.clear()
    manifest.selection.clear()
    export_official(build(), tmp_path / "model.pth", clouds, manifest)
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert (content["epoch"], content["metrics"]) == (0, {})


def test_merged_lora_is_written_under_the_names_of_the_base(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    adapted = build(LoRA(rank=2, alpha=3.0))
    merged = merge(adapted, "auto", [clouds]).model
    export_official(merged, tmp_path / "model.pth", clouds, manifest)
    content = torch.load(tmp_path / "model.pth", weights_only=True)["base_model"]
    assert set(content) == set(build().state_dict())
    again = build()
    again.load_state_dict(content)
    with torch.no_grad():
        torch.testing.assert_close(again(clouds), adapted(clouds), rtol=0, atol=1e-5)


def test_tensors_are_copies(build: Build) -> None:
    model = build()
    tensors = official_tensors(model)
    tensors["norm.weight"].zero_()
    assert model.norm.weight.abs().min() > 0
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def test_an_unmerged_adapter_is_sent_to_merge(build: Build) -> None:
    with pytest.raises(ExportError, match=r"blocks\.blocks\.0\.mlp\.fc1") as error:
        official_tensors(build(LoRA()))
    assert "which is exact: geopeft merge RUN" in str(error.value.hint)


@pytest.mark.parametrize("folded", [False, True])
def test_a_geometric_update_names_the_approximate_modes(build: Build, clouds: Tensor, folded: bool) -> None:
    model = build(MoST(blocks=4))
    if folded:
        model = merge(model, "keep-k", [clouds]).model
    with pytest.raises(ExportError, match="MonarchUpdate") as error:
        official_tensors(model)
    assert "lam = 0" in str(error.value.hint)
    assert "--mode drop-k|dc|calibrated" in str(error.value.hint)


def test_a_wrapper_that_cannot_fold_is_sent_to_the_programs(build: Build) -> None:
    model = build()
    model.blocks.blocks[0].attn.qkv = Wrapper(model.blocks.blocks[0].attn.qkv)
    with pytest.raises(ExportError) as error:
        official_tensors(model)
    assert "merge RUN" not in str(error.value.hint)
    assert "onnx or pt2" in str(error.value.hint)


@pytest.mark.parametrize("affine", [False, True])
def test_feature_fusion_is_refused(build: Build, affine: bool) -> None:
    with pytest.raises(ExportError, match="fusion"):
        official_tensors(build(fusion={"layers": 2, "affine": affine}))


def test_a_linear_head_is_refused(build: Build) -> None:
    with pytest.raises(ExportError, match="linear"):
        official_tensors(build(head="linear"))


def test_a_model_without_a_task_is_refused() -> None:
    with pytest.raises(ExportError, match="classifier"):
        official_tensors(PointMAE(width=24, depth=1, heads=4))


def test_a_file_that_gives_other_logits_is_not_left(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: PointMAE) -> dict[str, Tensor]:
        tensors = official_tensors(model)
        tensors["cls_pos"][0, 0, 0] += 1e-3
        return tensors

    monkeypatch.setattr(official, "official_tensors", damaged)
    with pytest.raises(ExportError, match="differs from the model"):
        export_official(build(), tmp_path / "model.pth", clouds, manifest)
    assert not list(tmp_path.iterdir())


def test_the_names_are_those_of_a_plain_classifier(build: Build) -> None:
    plain = PointMAE(width=24, depth=2, heads=4)
    Classification(["a", "b", "c"]).attach(plain)
    assert official_tensors(build()).keys() == official_state(plain).keys()
