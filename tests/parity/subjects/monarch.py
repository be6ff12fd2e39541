"""Monarch factors: forward, gradients, the dense matrix, and the projection of a dense matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from geopeft_cli.methods.monarch import MonarchFactors, project_to_monarch
from parity.golden_set import GoldenSet
from parity.subjects import Output
from parity.tensors import named, tensors_of_case

FILE = "io.safetensors"


def run(golden: GoldenSet) -> Iterator[Output]:
    (route,) = golden.routes()
    for case, sizes in golden.cases().items():
        for name, value in _layer(golden, case, tensors_of_case(route.weights, case), sizes["nblocks"]):
            yield Output(FILE, f"{case}.{name}", value)
    for name in golden.meta["inputs"]:
        if name.endswith(".dense"):
            yield from _projection(golden, name.removesuffix(".dense"))


def _layer(golden: GoldenSet, case: str, weights: dict[str, Tensor], blocks: int) -> Iterator[tuple[str, Tensor]]:
    x = torch.from_numpy(golden.input(f"{case}.x")).requires_grad_()
    g = torch.from_numpy(golden.input(f"{case}.g"))
    factors = MonarchFactors(x.shape[-1], g.shape[-1], blocks, bias="bias" in weights)
    factors.load_state_dict(weights)
    y = factors(x)
    if factors.bias is not None:
        y = y + factors.bias
    (y * g).sum().backward()
    yield "y", y
    assert x.grad is not None
    yield "dx", x.grad
    for name, parameter in factors.named_parameters():
        assert parameter.grad is not None
        yield from ((f"d{name}.block{index}", block) for index, block in enumerate(parameter.grad))
    dense = factors.dense()
    yield "dense", dense
    yield "dense.rowsum", dense.sum(dim=1)
    yield "dense.colsum", dense.sum(dim=0)
    yield from ((f"dense.rows{count}", dense[:count]) for count in named(golden, FILE, f"{case}.dense.rows"))


def _projection(golden: GoldenSet, case: str) -> Iterator[Output]:
    """The nearest Monarch matrix. The number of blocks stands in the notes and nowhere else."""
    blocks = re.search(r"project\(\w+,\s*(\d+)", " ".join(golden.meta["notes"]))
    assert blocks is not None, "the notes do not say how many blocks the projection has"
    matrix = torch.from_numpy(golden.input(f"{case}.dense"))
    rows, columns = matrix.shape
    factors = MonarchFactors(columns, rows, int(blocks[1]))
    first, second = project_to_monarch(matrix, factors.blocks)
    with torch.no_grad():
        factors.blkdiag1.copy_(first)
        factors.blkdiag2.copy_(second)
    product = factors.dense()
    residual = torch.stack([(matrix - product).norm(), matrix.double().norm()])
    yield Output(FILE, f"{case}.residual_fro", residual)
    yield from (Output(FILE, f"{case}.rows{count}", product[:count]) for count in named(golden, FILE, f"{case}.rows"))
