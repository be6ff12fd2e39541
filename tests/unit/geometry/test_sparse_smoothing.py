"""K-Rectify without a matrix: the dense operator's results and gradients, in a fixed order of summation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.smoothing import RelativeEps, rectifier
from geopeft_cli.geometry.sparse_smoothing import Rows, SparseRectifier

CENTERS = torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(0))
SHUFFLED = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
SLOTS = {
    "plain": torch.arange(30),
    "bypass first": torch.cat([torch.tensor([-1, -1]), torch.arange(30)]),
    "own order": torch.cat([SHUFFLED, torch.full((2, 3), -1)], dim=1).roll(5, 1),
    "two copies": torch.cat([SHUFFLED, SHUFFLED.flip(1)], dim=1),
    "centers left out": torch.tensor([3, -1, 7, 3, 9, 2, 2, -1, 3]),
}


def tokens(slots: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, slots.shape[-1], 5, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("power", [0, 1, 2, 3])
@pytest.mark.parametrize("eps", [0.05, RelativeEps(0.5)])
@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS.keys())
def test_agrees_with_the_dense_operator_forward_and_backward(
    slots: Tensor, eps: float, power: int, causal: bool
) -> None:
    settings = (CENTERS, slots, 4, eps, 0.5, power, causal)
    matrix, operator = rectifier(*settings), SparseRectifier(*settings)
    x, weight = tokens(slots).requires_grad_(), tokens(slots).cos()
    result, expected = operator(x), matrix @ x
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    for y, theirs in ((result, expected), (operator.product(weight, True), matrix.mT @ weight)):
        torch.testing.assert_close(y, theirs, atol=1e-5, rtol=1e-5)
    gradient, reference = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (result, expected))
    torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS.keys())
def test_gradients_in_double(slots: Tensor) -> None:
    operator = SparseRectifier(CENTERS, slots, 4, 0.05, 0.5, 2)
    x = tokens(slots, torch.float64)[..., :2].requires_grad_()
    assert torch.autograd.gradcheck(operator, x)
    assert torch.autograd.gradgradcheck(operator, x)


def test_tokens_without_a_center_keep_their_bits() -> None:
    slots = SLOTS["own order"]
    x = tokens(slots)
    result = SparseRectifier(CENTERS, slots, 4, 0.05, 0.5, 2)(x)
    assert torch.equal(result[slots < 0], x[slots < 0])
    assert not torch.isclose(result[slots >= 0], x[slots >= 0]).all(dim=1).any()


@pytest.mark.parametrize("size", [1, 2])
def test_few_centers(size: int) -> None:
    settings = (CENTERS[:, :size], torch.arange(-1, size), 4, 0.05, 0.5, 2)
    x = tokens(settings[1])
    torch.testing.assert_close(SparseRectifier(*settings)(x), rectifier(*settings) @ x)


def test_half_precision_comes_back_as_it_went_in() -> None:
    slots = SLOTS["plain"]
    operator, x = SparseRectifier(CENTERS, slots, 4, 0.05, 0.5, 2), tokens(slots)
    result = operator(x.bfloat16())
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), operator(x.bfloat16().float()), atol=1e-2, rtol=1e-2)


def test_transposed_rows() -> None:
    dense = torch.rand(6, 6, generator=torch.Generator().manual_seed(4))
    dense[dense < 0.6] = 0
    dense[2] = dense[:, 3] = 0
    sparse = dense.to_sparse_coo().coalesce()
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (dense != 0).sum(1).cumsum(0)])
    rows = Rows(starts, sparse.indices()[1], sparse.values())
    torch.testing.assert_close(rows @ torch.eye(6), dense)
    torch.testing.assert_close(rows.transposed() @ torch.eye(6), dense.mT)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="centers"):
        SparseRectifier(CENTERS[0], SLOTS["plain"], 4, 0.05, 0.5, 2)
    with pytest.raises(ShapeError, match="slots"):
        SparseRectifier(CENTERS, SHUFFLED[:1], 4, 0.05, 0.5, 2)
