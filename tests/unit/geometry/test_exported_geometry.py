"""Geometry in exported graphs: any batch and cloud size, the same indices, a small graph for every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.interpolation import interpolate, inverse_distance_weights
from geopeft_cli.geometry.ordering import hilbert_order
from geopeft_cli.geometry.smoothing import rectifier

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export on its own code

SIZES = ((1, 16), (2, 100), (3, 512), (1, 513), (2, 1500))


class Grouping(nn.Module):
    def __init__(self, groups: int = 12, near_origin: str = "skip") -> None:
        super().__init__()
        self.groups, self.near_origin = groups, near_origin

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        groups = group(points, self.groups, 8, self.near_origin)
        index, weight = inverse_distance_weights(points, groups.centers)
        tokens = groups.neighborhoods.flatten(2)
        settings = (groups.centers, torch.arange(-1, self.groups), 4, 0.05, 0.5, 2)
        return *groups, interpolate(tokens, index, weight), rectifier(*settings), rectifier(*settings, causal=True)


class Curves(nn.Module):
    def forward(self, centers: Tensor) -> Tensor:
        return hilbert_order(centers, [(0, 1, 2), (1, 0, 2)])


def cloud(batch: int, points: int, ties: bool) -> Tensor:
    generator = torch.Generator().manual_seed(points)
    if ties:
        return torch.randint(-2, 3, (batch, points, 3), generator=generator).float()
    return torch.randn(batch, points, 3, generator=generator) * 0.1


def dynamic() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim("points", min=12)},)


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(model.eval(), (cloud(2, 64, ties=False),), dynamic_shapes=dynamic())


def assert_same(result: list[np.ndarray], expected: tuple[Tensor, ...]) -> None:
    """Coordinates and indices to the last bit, mixtures of features up to the order of summation."""
    for ours, theirs in zip(result[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(result[4:], expected[4:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("near_origin", ["skip", "keep"])
def test_torch_export(near_origin: str) -> None:
    model = Grouping(near_origin=near_origin)
    program = exported(model).module()
    for batch, points in SIZES:
        for ties in (False, True):
            points_in = cloud(batch, points, ties)
            assert_same([output.numpy() for output in program(points_in)], model(points_in))


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = Grouping().eval()
    example = (cloud(2, 64, ties=False),)
    torch.onnx.export(model, example, dynamo=True, verbose=False, dynamic_shapes=dynamic()).save(tmp_path / "g.onnx")
    session = runtime.InferenceSession(tmp_path / "g.onnx")
    for batch, points in SIZES:
        for ties in (False, True):
            points_in = cloud(batch, points, ties)
            assert_same(session.run(None, {session.get_inputs()[0].name: points_in.numpy()}), model(points_in))


@pytest.mark.slow
def test_curves_in_onnx_are_as_deep_as_each_cloud_needs(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, shapes = Curves().eval(), ({0: torch.export.Dim("batch")},)
    example = (cloud(2, 20, ties=False),)
    torch.onnx.export(model, example, dynamo=True, verbose=False, dynamic_shapes=shapes).save(tmp_path / "c.onnx")
    session = runtime.InferenceSession(tmp_path / "c.onnx")
    wide = torch.tensor([0.02, 0.5, 1, 2, 4, 8, 2000]).view(-1, 1, 1) * cloud(1, 20, ties=False)
    for centers in (wide, cloud(3, 20, ties=True)):
        (order,) = session.run(None, {session.get_inputs()[0].name: centers.numpy()})
        np.testing.assert_array_equal(order, model(centers))


def test_a_step_of_sampling_adds_few_nodes() -> None:
    """Each of the 128 steps of a real model is unrolled: conversion time grows with every node."""
    few, many = (len(exported(Grouping(count)).run_decompositions().graph.nodes) for count in (6, 11))
    assert (many - few) / 5 <= 13
