"""The torch.export program: what is in it, what it computes, and that it is refused when it is wrong."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.merge import merge
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.errors import ExportError
from geopeft_cli.exporting import program as exporter
from geopeft_cli.exporting.program import export_program
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import MoST

Build = Callable[..., PointMAE]
ALL = ("all", "position", "patch_embedding")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_most_with_fusion_merged_keeping_k(build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path) -> None:
    adapted = build(MoST(blocks=4), fusion={"layers": 2, "affine": True})
    model = merge(adapted, "keep-k", [clouds]).model
    path = tmp_path / "model.pt2"
    result = export_program(model, path, clouds, manifest)
    assert len(result.cases) == 9
    assert result.difference < 1e-5
    assert result.file_bytes == path.stat().st_size
    extra = {"geopeft.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    found = json.loads(extra["geopeft.json"])
    assert json.loads(found["classes"]) == manifest.classes
    assert found["normalize"] == "unit_sphere"
    tied = (torch.cat([clouds, clouds], dim=1) * 4).round() / 4
    with torch.no_grad():
        torch.testing.assert_close(program(tied), adapted(tied), rtol=0, atol=1e-5)
        torch.testing.assert_close(program(clouds)[2:3], program(clouds[2:3]), rtol=0, atol=1e-5)
    with zipfile.ZipFile(path) as archive:
        assert not any(b"patch_transformer.py" in archive.read(name) for name in archive.namelist())


@pytest.mark.slow
def test_lora_on_every_layer_silently(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build(LoRA(rank=2, alpha=3.0, targets=ALL)).train()
    result = export_program(model, tmp_path / "model.pt2", clouds[:1, :16], manifest)
    assert result.cases[0] == (1, 16)
    assert capfd.readouterr() == ("", "")
    assert model.training


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_not_left(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build()
    other.cls_pos.data[..., 0] += 0.1
    wrong = exporter.trace(other.eval().requires_grad_(False), clouds)
    monkeypatch.setattr(exporter, "trace", lambda model, clouds: wrong)
    with pytest.raises(ExportError, match="differs from the model"):
        export_program(build(), tmp_path / "model.pt2", clouds, manifest)
    assert not list(tmp_path.iterdir())
