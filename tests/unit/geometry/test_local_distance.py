"""The local feature distance against its definition, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.local_distance import LocalDistance, local_distance, neighborhoods, spread

K = 4


def scene(batch: int = 3, tokens: int = 40, channels: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features that vary with the place, and centers."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(batch, tokens, 3, generator=generator)
    slope = torch.randn(3, channels, generator=generator)
    noise = torch.randn(batch, tokens, channels, generator=generator)
    return (centers @ slope + 0.5 * noise).double(), centers


def measured(features: Tensor, centers: Tensor, k: int = K) -> LocalDistance:
    return local_distance(features, neighborhoods(centers, k))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def test_a_constant_field_has_none() -> None:
    _, centers = scene()
    for value in (0.0, 0.1, -3e4):
        found = measured(torch.full((3, 40, 16), value), centers)
        assert not found.lfd.any()
        assert not found.lfd_rel.any()


def test_two_constant_halves_far_apart_have_none() -> None:
    centers = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
    centers = torch.cat([centers, centers + 1000], dim=1)
    features = torch.ones(1, 40, 8)
    features[:, 20:] = 2.0
    found = measured(features, centers)
    assert not found.lfd.any()
    assert not found.lfd_rel.any()


def test_white_noise_differs_between_neighbors_as_between_any_two() -> None:
    generator = torch.Generator().manual_seed(0)
    features, centers = torch.randn(8, 128, 384, generator=generator), torch.randn(8, 128, 3, generator=generator)
    found = measured(features, centers)
    close(found.lfd_rel, torch.ones(8).double(), 0.05)
    close(found.lfd, torch.full((8,), (2 * 384) ** 0.5).double(), 0.05)


def test_all_others_as_neighbors_give_exactly_one() -> None:
    features, centers = scene()
    close(measured(features, centers, 39).lfd_rel, torch.ones(3).double())


def test_against_a_tree_and_loops() -> None:
    spatial = pytest.importorskip("scipy.spatial")
    features, centers = scene(tokens=60)
    found = measured(features.float(), centers)
    for cloud in range(3):
        place, field = centers[cloud].double().numpy(), features[cloud].float().double().numpy()
        nearest = spatial.cKDTree(place).query(place, K + 1)[1]
        near = [np.linalg.norm(field[i] - field[j]) for i in range(60) for j in nearest[i] if j != i]
        assert len(near) == 60 * K
        pairs = [np.linalg.norm(field[i] - field[j]) for i in range(60) for j in range(60) if j != i]
        relative = np.sqrt(np.mean(np.square(near)) / np.mean(np.square(pairs)))
        assert float(found.lfd[cloud]) == pytest.approx(np.mean(near), rel=1e-6)
        assert float(found.lfd_rel[cloud]) == pytest.approx(relative, rel=1e-6)


def test_a_constant_added_changes_nothing() -> None:
    features, centers = scene()
    for found, expected in zip(measured(features + 7.5, centers), measured(features, centers), strict=True):
        close(found, expected)


def test_the_order_of_the_tokens_changes_nothing() -> None:
    features, centers = scene()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = measured(features[:, order], centers[:, order])
    for found, expected in zip(shuffled, measured(features, centers), strict=True):
        close(found, expected)


def test_the_other_clouds_of_the_batch_change_nothing() -> None:
    features, centers = scene()
    alone = [measured(features[i : i + 1], centers[i : i + 1]) for i in range(3)]
    for parts, expected in zip(zip(*alone, strict=True), measured(features, centers), strict=True):
        close(torch.cat(parts), expected)


def test_the_scale_of_the_features_changes_only_the_raw_figure() -> None:
    features, centers = scene()
    found, expected = measured(features * 250, centers), measured(features, centers)
    close(found.lfd_rel, expected.lfd_rel)
    close(found.lfd, expected.lfd * 250)


def test_smoother_features_have_less() -> None:
    features, centers = scene()
    index = neighborhoods(centers, K)
    mean = torch.stack([cloud[rows].mean(1) for cloud, rows in zip(features, index, strict=True)])
    assert bool((measured(features + mean, centers).lfd_rel < measured(features, centers).lfd_rel).all())


def test_a_token_is_not_its_own_neighbor_even_among_coincident_ones() -> None:
    index = neighborhoods(torch.zeros(1, 6, 3), K)
    assert bool((index != torch.arange(6).view(1, 6, 1)).all())


def test_neighbors_are_at_most_the_others() -> None:
    assert neighborhoods(torch.randn(2, 3, 3), K).shape == (2, 3, 2)


@pytest.mark.parametrize("tokens", [0, 1])
def test_fewer_than_two_tokens_have_no_figure(tokens: int) -> None:
    found = measured(torch.zeros(2, tokens, 5), torch.zeros(2, tokens, 3))
    assert bool(found.lfd.isnan().all())
    assert bool(found.lfd_rel.isnan().all())
    assert found.lfd.shape == found.lfd_rel.shape == (2,)


def test_every_cloud_has_the_same_weight() -> None:
    found = spread(torch.tensor([1.0, 2.0, 6.0]))
    assert found == pytest.approx((3.0, (14 / 3) ** 0.5))
    assert spread(torch.tensor([2.5])) == (2.5, 0.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 5, 8\) and neighbors \(2, 4, 3\)"):
        local_distance(torch.zeros(2, 5, 8), neighborhoods(torch.randn(2, 4, 3), K))
    with pytest.raises(ShapeError, match="at least 1"):
        neighborhoods(torch.randn(2, 4, 3), 0)
    with pytest.raises(ShapeError, match="centers"):
        neighborhoods(torch.randn(4, 3), K)
    with pytest.raises(ShapeError, match="at least one"):
        spread(torch.zeros(0))
