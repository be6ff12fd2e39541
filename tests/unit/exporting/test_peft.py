"""Adapters for Hugging Face peft, held against the real library, both ways."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geopeft_cli.adapters.directory import adapter_state, read_adapter, save_adapter
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.peft_layout import adapted_modules, lora_config
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import load_official_state, official_state
from geopeft_cli.errors import ExportError
from geopeft_cli.exporting.peft import BASE, export_peft
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import MoST

Build = Callable[..., PointMAE]
TARGETS = ("all", "encoder.first_conv.3")
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "base_model.safetensors"]

peft = pytest.importorskip("peft", reason="peft is not installed")


def trainable(model: PointMAE) -> PointMAE:
    """What a fine-tuning run trains: factors, head and class tokens."""
    for name, parameter in model.named_parameters():
        parts = ("lora_", "cls_head_finetune", "cls_token", "cls_pos")
        parameter.requires_grad_(any(part in name for part in parts))
    return model


def without_lora(model: PointMAE) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in official_state(model).items() if ".lora_" not in name}


@torch.no_grad()
def difference(one: nn.Module, other: nn.Module, clouds: Tensor) -> float:
    return float((one(clouds) - other(clouds)).abs().max())


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        ({"rank": 2, "alpha": 3.0, "targets": TARGETS}, {}),
        ({"rank": 3, "alpha": 5.0, "rslora": True, "dropout": 0.2}, {"head": "linear"}),
        ({"rank": 2, "alpha": 2.0}, {"fusion": {"layers": 2, "affine": True}}),
    ],
)
def test_peft_gives_the_same_logits(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, settings: dict, task: dict
) -> None:
    method = LoRA(**settings)
    model = build(method, **task)
    folder = tmp_path / "adapter"
    result = export_peft(model, folder, clouds, manifest, method.settings())
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert result.verified
    assert result.difference <= 1e-6
    assert result.file_bytes == sum(file.stat().st_size for file in folder.iterdir())
    plain = build(**task)
    assert difference(plain, model, clouds) > 0.01
    plain.load_state_dict(load_file(folder / BASE))
    loaded = peft.PeftModel.from_pretrained(plain, folder).eval()
    assert difference(loaded, model, clouds) <= 1e-6


def test_the_adapter_holds_nothing_that_peft_would_ignore(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    method = LoRA(rank=2)
    export_peft(build(method), tmp_path / "a", clouds, manifest, method.settings())
    names = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert all(re.match(r"base_model\.model\.(blocks\..*\.lora_[AB]\.|cls_head_finetune\.)", name) for name in names)
    assert "base_model.model.cls_head_finetune.1.running_var" in names
    base = load_file(tmp_path / "a" / BASE)
    assert base.keys() == build().state_dict().keys()


def test_the_lines_in_the_readme_run(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = LoRA(rank=2, alpha=3.0)
    model = build(method)
    export_peft(model, tmp_path / "a", clouds, manifest, method.settings())
    text = (tmp_path / "a" / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path / "a")
    scope: dict = {}
    exec(code, scope)
    assert difference(scope["model"], model, clouds) <= 1e-6


def test_an_export_that_peft_computes_otherwise_is_not_left(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    method = LoRA(rank=2, alpha=3.0)
    with pytest.raises(ExportError, match="differs from the model"):
        export_peft(build(method), tmp_path / "a", clouds, manifest, {**method.settings(), "alpha": 4.0})
    assert not list(tmp_path.iterdir())


def test_without_peft_the_result_is_not_verified(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    method = LoRA(rank=2)
    result = export_peft(build(method), tmp_path / "a", clouds, manifest, method.settings())
    assert not result.verified
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == FILES


@pytest.mark.parametrize("method", [None, MoST(blocks=4)])
def test_other_methods_are_refused(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, method: MoST | None
) -> None:
    with pytest.raises(ExportError, match="peft can load LoRA adapters") as error:
        export_peft(build(method), tmp_path / "a", clouds, manifest, {})
    assert "geopeft merge" in str(error.value.hint)
    assert "geopeft merge --to-lora RANK" in str(error.value.hint)
    assert not list(tmp_path.iterdir())


def test_our_own_adapter_directory_loads_in_peft(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    """On a base that has the class tokens of the adapter, which peft leaves alone."""
    method = LoRA(rank=2, alpha=3.0, targets=TARGETS)
    model = trainable(build(method))
    tensors = adapter_state(model, ("cls_token", "cls_pos"))
    save_adapter(tmp_path / "a", model, tensors, manifest, "lora", method.settings(), "card")
    plain = build()
    head = plain.cls_head_finetune
    plain.load_state_dict(without_lora(model))
    for tensor in head.state_dict().values():
        tensor.zero_()  # the head comes from the adapter
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "a").eval()
    assert difference(loaded, model, clouds) <= 1e-6


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_saved_by_peft_loads_here(build: Build, clouds: Tensor, tmp_path: Path, rslora: bool) -> None:
    plain = build()
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        use_rslora=rslora,
        target_modules=["attn.qkv", "mlp.fc2", "encoder.first_conv.3"],
        modules_to_save=["cls_head_finetune"],
    )
    base = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    theirs = peft.get_peft_model(plain, config).eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if "lora_" in name or ("modules_to_save" in name and tensor.is_floating_point()):
                tensor.add_(0.02 * torch.rand_like(tensor))
    theirs.save_pretrained(tmp_path / "a")

    stored = read_adapter(tmp_path / "a")
    assert stored.manifest is None
    read = lora_config(stored.config, tmp_path / "a")
    assert read.modules_to_save == ("cls_head_finetune",)
    layers = adapted_modules(list(stored.tensors))
    assert len(layers) == 5
    ours = build()
    ours.load_state_dict(base)
    LoRA(read.rank, read.alpha, read.dropout, read.rslora, layers).attach(ours.eval())
    assert difference(theirs, ours, clouds) > 1e-3
    load_official_state(ours, stored.tensors)
    # in float64, since the two scale at different places, which float32 shows at logits of this size
    assert difference(theirs.double(), ours.double(), clouds.double()) <= 1e-12


def test_another_factor_in_the_file_gives_other_logits(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path
) -> None:
    method = LoRA(rank=2, alpha=3.0)
    model = build(method)
    export_peft(model, tmp_path / "a", clouds, manifest, method.settings())
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.blocks.blocks.1.mlp.fc1.lora_B.weight"] *= 2
    save_file(tensors, path, {"format": "pt"})
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    plain = build()
    plain.load_state_dict(load_file(tmp_path / "a" / BASE))
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "a").eval()
    assert difference(loaded, model, clouds) > 1e-4
