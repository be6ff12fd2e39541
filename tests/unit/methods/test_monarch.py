"""Monarch factors: the index order against its formula, the dense matrix, padding, gradients and the projection."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import UsageError
from geopeft_cli.methods import monarch_product
from geopeft_cli.methods.monarch import MonarchFactors, project_to_monarch

# square, wide, tall, padded on either or both sides, b > q, one block, b as large as it may be
SHAPES = [
    (12, 12, 3),
    (12, 36, 3),
    (48, 12, 4),
    (10, 6, 4),
    (6, 10, 4),
    (13, 17, 5),
    (12, 12, 6),
    (7, 5, 1),
    (5, 8, 5),
    (384, 1152, 8),
    (100, 60, 8),
    (96, 288, 16),
]


def filled(inputs: int, outputs: int, blocks: int, bias: bool = False) -> MonarchFactors:
    torch.manual_seed(inputs + outputs + blocks)
    factors = MonarchFactors(inputs, outputs, blocks, bias)
    torch.nn.init.normal_(factors.blkdiag2)
    return factors


def by_definition(factors: MonarchFactors) -> Tensor:
    """The dense matrix, entry by entry from the index formula."""
    w1, w2 = factors.blkdiag1.detach().double(), factors.blkdiag2.detach().double()
    b, q, p = w1.shape
    s = w2.shape[1]
    dense = torch.zeros(s * b, b * p, dtype=torch.float64)
    for ll in range(b):
        for rr in range(q):
            kk, row = divmod(rr * b + ll, q)
            for ss in range(s):
                dense[ss * b + ll, kk * p : (kk + 1) * p] += w2[ll, ss, rr] * w1[kk, row]
    return dense[: factors.outputs, : factors.inputs]


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), SHAPES)
def test_sizes(inputs: int, outputs: int, blocks: int) -> None:
    factors = MonarchFactors(inputs, outputs, blocks, bias=True)
    p, s = math.ceil(inputs / blocks), math.ceil(outputs / blocks)
    q = min(p, s)
    assert factors.blkdiag1.shape == (blocks, q, p)
    assert factors.blkdiag2.shape == (blocks, s, q)
    assert factors.bias is not None
    assert factors.bias.shape == (outputs,)
    assert factors.padding == (blocks * p - inputs, blocks * s - outputs)
    assert all(0 <= padding < blocks for padding in factors.padding)


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [shape for shape in SHAPES if shape[0] * shape[1] < 2000])
def test_dense_is_the_definition(inputs: int, outputs: int, blocks: int) -> None:
    factors = filled(inputs, outputs, blocks)
    torch.testing.assert_close(factors.dense(), by_definition(factors), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), SHAPES)
def test_forward_is_the_dense_matrix(inputs: int, outputs: int, blocks: int) -> None:
    factors = filled(inputs, outputs, blocks, bias=True)
    torch.nn.init.normal_(factors.bias)  # belongs behind K-Rectify, never into this product
    dense = factors.dense()
    assert (dense.shape, dense.dtype) == ((outputs, inputs), torch.float64)
    for lead in ((), (0,), (3,), (2, 5), (2, 1, 3)):
        x = torch.randn(*lead, inputs)
        torch.testing.assert_close(factors(x).double(), x.double() @ dense.mT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(6, 6, 2), (5, 8, 3), (8, 5, 3), (4, 4, 4)])
def test_gradients(inputs: int, outputs: int, blocks: int) -> None:
    factors = filled(inputs, outputs, blocks).double()
    x = torch.randn(3, inputs, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return torch.func.functional_call(factors, {"blkdiag1": first, "blkdiag2": second}, x)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(function, (x, factors.blkdiag1, factors.blkdiag2))


def test_start() -> None:
    torch.manual_seed(0)
    factors = MonarchFactors(64, 128, 4, bias=True)
    bound = 1 / math.sqrt(16)
    assert not factors.blkdiag2.any()
    assert factors.bias is not None
    assert not factors.bias.any()
    assert 0.98 * bound < float(factors.blkdiag1.detach().abs().max()) <= bound
    assert abs(float(factors.blkdiag1.detach().std()) / (bound / math.sqrt(3)) - 1) < 0.05
    assert MonarchFactors(4, 4, 2).bias is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "blocks", "share"),
    [(384, 384, 32, 0.375), (96, 288, 16, 0.375), (48, 48, 4, 1.0), (36, 36, 6, 1.0), (16, 64, 8, 0.25)],
)
def test_structural_zeros(inputs: int, outputs: int, blocks: int, share: float) -> None:
    factors = filled(inputs, outputs, blocks)
    assert factors.nonzero_fraction == share
    assert float((factors.dense() != 0).double().mean()) == pytest.approx(share)


def test_generic_rank_is_full() -> None:
    assert torch.linalg.matrix_rank(filled(48, 48, 12).dense()) == 48


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 3), (3, 8)])
def test_more_blocks_than_channels_are_refused(inputs: int, outputs: int) -> None:
    MonarchFactors(inputs, outputs, 3)
    with pytest.raises(UsageError, match=rf"4 blocks do not fit a layer of {inputs} -> {outputs} channels"):
        MonarchFactors(inputs, outputs, 4)


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(16, 16, 4), (16, 48, 4), (48, 16, 4), (30, 14, 3)])
def test_projection_gives_a_monarch_matrix_back(inputs: int, outputs: int, blocks: int) -> None:
    if min(math.ceil(inputs / blocks), math.ceil(outputs / blocks)) % blocks:
        with pytest.raises(UsageError, match="has no projection"):
            project_to_monarch(filled(inputs, outputs, blocks).dense(), blocks)
        return
    factors = filled(inputs, outputs, blocks)
    dense = factors.dense()
    with torch.no_grad():
        first, second = project_to_monarch(dense, blocks)
        copy = MonarchFactors(inputs, outputs, blocks).double()
        copy.blkdiag1.copy_(first)
        copy.blkdiag2.copy_(second)
    torch.testing.assert_close(copy.dense(), dense, atol=1e-12, rtol=1e-12)


def test_the_factors_draw_nothing_when_made_dense() -> None:
    factors = filled(12, 12, 3)
    state = torch.get_rng_state()
    factors.dense()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rows", [1, 5, 12])
@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(12, 36, 3), (13, 17, 5)])
def test_a_few_rows_at_a_time_are_all_rows(
    inputs: int, outputs: int, blocks: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = filled(inputs, outputs, blocks)
    x = torch.randn(12, inputs, requires_grad=True)
    weights = torch.randn(12, outputs)
    found = []
    for at_a_time in (rows, 100):
        monkeypatch.setattr(monarch_product, "ROWS", at_a_time)
        y = factors(x)
        found.append([y, *torch.autograd.grad((y * weights).sum(), [x, *factors.parameters()])])
    for part, whole in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-5)
