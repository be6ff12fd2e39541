"""Reductions over rows that belong together, and the way back, with their gradients."""

from __future__ import annotations

import torch

from geopeft_cli.geometry.clusters import clusters_of

KEYS = torch.tensor([7, 3, 7, 9, 3, 7])
X = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_reductions_and_spreading() -> None:
    clusters = clusters_of(KEYS)
    groups = [X[[1, 4]], X[[0, 2, 5]], X[[3]]]
    assert clusters.first.tolist() == [1, 0, 3]
    torch.testing.assert_close(clusters.maximum(X), torch.stack([group.amax(0) for group in groups]))
    torch.testing.assert_close(clusters.mean(X), torch.stack([group.mean(0) for group in groups]))
    torch.testing.assert_close(clusters.total(X), torch.stack([group.sum(0) for group in groups]))
    assert clusters.spread(X[:3]).tolist() == X[[1, 0, 1, 2, 0, 1]].tolist()


def test_gradients() -> None:
    clusters = clusters_of(KEYS)
    rows, few = X.clone().requires_grad_(), X[:3].clone().requires_grad_()
    for function, x in ((clusters.maximum, rows), (clusters.mean, rows), (clusters.spread, few)):
        assert torch.autograd.gradcheck(function, (x,))


def test_ties_share_the_gradient() -> None:
    x = torch.ones(6, 1, requires_grad=True)
    clusters_of(KEYS).maximum(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 2, 1 / 3]).tolist()
