"""The ONNX file: what is in it, what it computes, and that nothing is left or said when it should not be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from geopeft_cli import __version__
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.errors import ExportError, MissingDependencyError
from geopeft_cli.exporting import onnx as exporter
from geopeft_cli.exporting.onnx import export_onnx
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import MoST

Build = Callable[..., PointMAE]
ALL = ("all", "position", "patch_embedding")


def run(path: Path, points: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"points": points.numpy()})[0])


@pytest.mark.slow
def test_most_with_fusion(build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path) -> None:
    model = build(MoST(blocks=4, bias=True), fusion={"layers": 2, "affine": True})
    path = tmp_path / "deep" / "model.onnx"
    result = export_onnx(model, path, clouds, manifest)
    assert len(result.cases) == 9
    assert 0 < result.difference < 1e-5
    assert result.file_bytes == path.stat().st_size < 3_000_000
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]

    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [opset.domain for opset in graph.opset_import] == [""]
    shapes = [
        (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert shapes == [("points", ["batch", "n", 3]), ("logits", ["batch", 3])]
    assert not [tensor.name for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.DOUBLE]
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(properties.pop("classes")) == manifest.classes
    assert properties == {"points": "64", "normalize": "unit_sphere", "geopeft_version": __version__}
    assert b".py" not in path.read_bytes()

    # coordinates on a coarse grid: distances tie everywhere, and many points lie at the origin
    for grid in (0.25, 0.5):
        tied = (torch.cat([clouds, clouds], dim=1) / grid).round() * grid
        with torch.no_grad():
            torch.testing.assert_close(run(path, tied), model(tied), rtol=0, atol=1e-5)
    alone = run(path, clouds[2:3])
    torch.testing.assert_close(run(path, clouds)[2:3], alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_lora_on_every_layer_silently(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build(LoRA(rank=2, alpha=3.0, targets=ALL), head="linear")
    result = export_onnx(model, tmp_path / "model.onnx", clouds[:1, :16], manifest)
    assert result.cases[0] == (1, 16)
    assert capfd.readouterr() == ("", "")
    with torch.no_grad():
        torch.testing.assert_close(run(tmp_path / "model.onnx", clouds), model(clouds), rtol=0, atol=1e-5)


OTHER = """<ir_version: 8, opset_import: ["": 18]>
other (float[batch, n, 3] points) => (float[batch, 3] logits) {
    axes = Constant<value_ints = [1]>()
    logits = ReduceMax<keepdims = 0>(points, axes)
}"""


def test_a_graph_that_computes_something_else_is_not_left(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_translated", lambda model, clouds: onnx.parser.parse_model(OTHER))
    with pytest.raises(ExportError, match="differs from the model"):
        export_onnx(build(), tmp_path / "model.onnx", clouds, manifest)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_cure(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"needs {name},") as error:
        export_onnx(build(), tmp_path / "model.onnx", clouds, manifest)
    assert 'pip install "geopeft[export]"' in str(error.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_failure_of_the_translation_is_one_message(
    build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no function for aten.strange\nand forty lines more")

    monkeypatch.setattr(exporter, "trace", lambda model, clouds: None)
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"to ONNX: no function for aten\.strange\n") as error:
        export_onnx(build(), tmp_path / "model.onnx", clouds, manifest)
    assert "pt2" in str(error.value.hint)
    assert not list(tmp_path.iterdir())
