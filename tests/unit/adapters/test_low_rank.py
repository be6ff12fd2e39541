"""The nearest matrix of a rank, held against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geopeft_cli.adapters.low_rank import nearest_of_rank

MATRIX = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("wide", [False, True])
def test_nearest(rank: int, wide: bool) -> None:
    matrix = MATRIX.T if wide else MATRIX
    found = nearest_of_rank(matrix, rank)
    assert (found.down.shape, found.up.shape) == ((rank, matrix.shape[1]), (matrix.shape[0], rank))
    u, values, vh = np.linalg.svd(matrix.numpy(), full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ vh[:rank]
    np.testing.assert_allclose((found.up @ found.down).numpy(), best, atol=1e-6)
    dropped = np.sqrt((values[rank:] ** 2).sum()) / np.linalg.norm(matrix.numpy())
    assert found.error == pytest.approx(dropped, rel=1e-6)
    # the singular values are shared evenly
    for factor in (found.up.T, found.down):
        np.testing.assert_allclose((factor @ factor.T).numpy(), np.diag(values[:rank]), atol=1e-5)


def test_full_rank_is_the_matrix_up_to_rounding() -> None:
    found = nearest_of_rank(MATRIX, 6)
    assert 0 < found.error < 1e-6
    torch.testing.assert_close((found.up @ found.down).double(), MATRIX, rtol=1e-5, atol=1e-6)


def test_zero_has_no_error() -> None:
    found = nearest_of_rank(torch.zeros(3, 4), 2)
    assert found.error == 0.0
    assert not found.up.any()
    assert not found.down.any()
