"""The proof itself: which clouds it uses, and that it fails when it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.errors import ExportError, ShapeError, UsageError
from geopeft_cli.exporting.official import export_official
from geopeft_cli.exporting.onnx import export_onnx
from geopeft_cli.exporting.program import export_program
from geopeft_cli.exporting.verification import (
    BATCHES,
    disagreement,
    point_counts,
    prepared,
    resized,
    standalone,
    verify,
)

Build = Callable[..., PointMAE]


def test_point_counts_hold_the_given_a_larger_and_an_odd_small_one() -> None:
    assert point_counts(64, 16) == (64, 127, 17)
    assert point_counts(16, 16) == (16, 31, 17)
    assert point_counts(1, 1) == (1,)


@pytest.mark.parametrize(("batch", "points"), [(1, 64), (5, 127), (9, 17)])
def test_resized_clouds_have_the_size_and_the_points(clouds: Tensor, batch: int, points: int) -> None:
    found = resized(clouds, batch, points)
    assert found.shape == (batch, points, 3)
    kept = min(points, clouds.shape[1])
    assert torch.equal(found[0, :kept], clouds[0, :kept])
    assert torch.equal(found, resized(clouds, batch, points))


def test_added_points_are_half_exact_copies_and_half_displaced(clouds: Tensor) -> None:
    again = resized(clouds, 1, 127)[0, 64:]
    moved = (again - clouds[0, :63]).norm(dim=-1)
    assert (moved[::2] == 0).all()
    assert (moved[1::2] > 0).all()
    assert moved.max() < 0.1


def test_a_repeated_cloud_begins_elsewhere(clouds: Tensor) -> None:
    found = resized(clouds[:1], 2, 64)
    assert torch.equal(found[1], found[0].roll(1, dims=0))


def test_standalone_is_an_independent_frozen_copy(build: Build) -> None:
    model = build().train()
    alone = standalone(model)
    assert model.training
    assert not alone.training
    assert not any(parameter.requires_grad for parameter in alone.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert alone.norm.weight.data_ptr() != model.norm.weight.data_ptr()


def test_verify_runs_every_batch_and_every_size(build: Build, clouds: Tensor, tmp_path: Path) -> None:
    model, file = build(), tmp_path / "file"
    file.write_bytes(b"12345")
    seen = []

    def run(points: Tensor) -> Tensor:
        seen.append(tuple(points.shape[:2]))
        return model(points) + 1e-6

    result = verify(run, model, clouds, file)
    assert result.cases == tuple((b, n) for n in (64, 127, 17) for b in BATCHES) == tuple(seen)
    assert 5e-7 < result.difference < 2e-6
    assert result.file_bytes == 5
    assert result.verified


def test_verify_stops_at_the_one_wrong_case(build: Build, clouds: Tensor, tmp_path: Path) -> None:
    model, file = build(), tmp_path / "file"
    file.touch()
    with pytest.raises(ExportError, match="on 5 clouds of 127 points"):
        verify(lambda x: model(x) + (1e-2 if x.shape[:2] == (5, 127) else 0), model, clouds, file)


def test_clouds_that_the_backbone_cannot_take_are_refused(build: Build, clouds: Tensor) -> None:
    model = build()
    assert torch.equal(prepared(clouds.double(), model), clouds)
    for wrong in (clouds[0], clouds[:0], clouds[:, :15]):
        with pytest.raises(ShapeError):
            prepared(wrong, model)


@pytest.mark.parametrize("export", [export_onnx, export_program, export_official])
def test_another_suffix_is_refused(export, build: Build, clouds: Tensor, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must end in"):
        export(build(), tmp_path / "model.bin", clouds, manifest)
    assert not list(tmp_path.iterdir())


def test_the_bar_is_relative_above_one_and_absolute_below() -> None:
    small, large = torch.full((2, 3), 0.01), torch.full((2, 3), 100.0)
    assert disagreement(small + 9e-5, small, "") == pytest.approx(9e-5, rel=1e-3)
    with pytest.raises(ExportError):
        disagreement(small + 1.2e-4, small, "")
    assert disagreement(large + 9e-3, large, "") == pytest.approx(9e-3, rel=1e-2)
    with pytest.raises(ExportError):
        disagreement(large + 1.2e-2, large, "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_never_pass(value: float) -> None:
    expected = torch.ones(2, 3)
    with pytest.raises(ExportError):
        disagreement(expected * value, expected, "")


def test_another_shape_never_passes() -> None:
    with pytest.raises(ExportError, match=r"\(2, 1\)"):
        disagreement(torch.ones(2, 1), torch.ones(2, 3), "")
