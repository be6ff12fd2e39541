"""Inverse-distance interpolation: weights, coincident points, few sources, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.interpolation import interpolate, inverse_distance_weights


def clouds(targets: int = 60, sources: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, targets, 3, generator=generator),
        torch.randn(2, sources, 3, generator=generator),
        torch.randn(2, sources, 5, generator=generator),
    )


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(("sources", "k"), [(12, 3), (12, 1), (2, 3), (1, 3)])
def test_formula_in_double(sources: int, k: int) -> None:
    targets, origins, features = clouds(sources=sources)
    index, weight = inverse_distance_weights(targets, origins, k)
    assert index.shape == weight.shape == (2, 60, min(k, sources))
    squared = (targets[:, :, None].double() - origins[:, None].double()).square().sum(-1)
    nearest, order = squared.sort(-1)
    nearest, order = nearest[..., :k], order[..., :k]
    expected = 1 / (nearest + 1e-8)
    expected /= expected.sum(-1, keepdim=True)
    assert torch.equal(index, order)
    torch.testing.assert_close(weight.double(), expected, atol=1e-6, rtol=1e-5)
    mixed = sum(
        expected[..., i, None] * torch.stack([f[o] for f, o in zip(features.double(), order[..., i], strict=True)])
        for i in range(min(k, sources))
    )
    torch.testing.assert_close(interpolate(features, index, weight).double(), mixed, atol=1e-6, rtol=1e-5)


def test_a_coincident_source_wins_and_two_share() -> None:
    sources = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]])
    targets = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    index, weight = inverse_distance_weights(targets, sources)
    assert index.tolist() == [[[0, 1, 2], [2, 0, 1]]]
    torch.testing.assert_close(weight, torch.tensor([[[0.5, 0.5, 0.5e-8], [1, 1e-8, 1e-8]]]), atol=1e-12, rtol=1e-6)


def test_eps_is_added_to_the_squared_distance() -> None:
    targets, sources = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0, 0], [0, 2.0, 0]]])
    weight = inverse_distance_weights(targets, sources, eps=2.0)[1]
    torch.testing.assert_close(weight, torch.tensor([[[2 / 3, 1 / 3]]]))


def test_gradients_reach_the_features_only() -> None:
    targets, sources, features = clouds(6, 4)
    index, weight = inverse_distance_weights(targets.requires_grad_(), sources.requires_grad_())
    assert not weight.requires_grad
    features = features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: interpolate(f, index, weight.double()), features)


def test_half_precision_features_are_summed_in_float32() -> None:
    targets, sources, features = clouds()
    index, weight = inverse_distance_weights(targets, sources)
    half = features.bfloat16()
    assert torch.equal(interpolate(half, index, weight), interpolate(half.float(), index, weight))


def test_errors() -> None:
    targets, sources, features = clouds()
    index, weight = inverse_distance_weights(targets, sources)
    for arguments in ((features[:1], index, weight), (features, index, weight[..., :2]), (features[0], index, weight)):
        with pytest.raises(ShapeError, match="expected"):
            interpolate(*arguments)
    with pytest.raises(ShapeError):
        inverse_distance_weights(targets, sources[:, :0])
    with pytest.raises(ShapeError):
        inverse_distance_weights(targets[..., :2], sources)
