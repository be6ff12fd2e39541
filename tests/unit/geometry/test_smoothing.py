"""K-Rectify: rows of S, powers of K, tokens without a center, coincident and few centers, symmetries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.smoothing import RelativeEps, laplacian, rectifier, smoothing_matrix

CENTERS = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
SLOTS = torch.cat([torch.tensor([-1, -1]), torch.arange(20)])


def smoothing_in_double(centers: Tensor, k: int, eps: float, causal: bool = False) -> Tensor:
    size = centers.shape[1]
    distance = torch.cdist(centers.double(), centers.double(), compute_mode="donot_use_mm_for_euclid_dist")
    result = torch.zeros_like(distance)
    for cloud in range(len(centers)):
        for i in range(size):
            others = sorted(
                (j for j in range(i if causal else size) if j != i), key=lambda j: (float(distance[cloud, i, j]), j)
            )[:k]
            for j in others:
                result[cloud, i, j] = 1 / (distance[cloud, i, j] + eps)
    return result / result.sum(-1, keepdim=True).clamp(min=1e-30)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(("k", "eps"), [(1, 0.05), (4, 0.05), (8, 0.5), (19, 0.05), (500, 0.05)])
def test_formula_in_double(k: int, eps: float) -> None:
    result = smoothing_matrix(CENTERS, k, eps)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), smoothing_in_double(CENTERS, k, eps), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(result.sum(-1), torch.ones(2, 20))
    assert (result.diagonal(dim1=1, dim2=2) == 0).all()
    assert ((result > 0).sum(-1) == min(k, 19)).all()


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("k", [1, 4, 19])
@pytest.mark.parametrize("relative", [False, True])
def test_earlier_centers_alone(k: int, relative: bool) -> None:
    eps = RelativeEps(0.5) if relative else 0.05
    distance = torch.cdist(CENTERS.double(), CENTERS.double()) + 100 * torch.eye(20)
    lengths = 0.5 * distance.amin(-1).mean(-1) if relative else torch.tensor([0.05, 0.05])
    for one, length in enumerate(lengths.tolist()):
        expected = smoothing_in_double(CENTERS[[one]], k, length, causal=True)
        single = torch.eye(22).double()[None]
        single[:, 2:, 2:] += 0.5 * expected
        result = rectifier(CENTERS[[one]], SLOTS, k, eps, 0.5, 2, causal=True)
        torch.testing.assert_close(result.double(), single @ single, atol=1e-5, rtol=1e-5)
        rows = laplacian(CENTERS[[one]], SLOTS, k, eps, causal=True)[:, 2:, 2:].double()
        expected -= torch.diag_embed(expected.sum(-1))
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)
        assert not rows[:, 0].any()


@pytest.mark.parametrize("power", [0, 1, 2, 3, 5])
def test_powers(power: int) -> None:
    smoothing = smoothing_in_double(CENTERS, 4, 0.05)
    single = torch.eye(22).double().repeat(2, 1, 1)
    single[:, 2:, 2:] += 0.5 * smoothing
    result = rectifier(CENTERS, SLOTS, 4, 0.05, 0.5, power)
    torch.testing.assert_close(result.double(), torch.linalg.matrix_power(single, power), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[:, 2:].sum(-1), torch.full((2, 20), 1.5**power))


def test_tokens_without_a_center_pass() -> None:
    slots = torch.tensor([3, -1, 0, 2, -1, 1])
    result = rectifier(CENTERS[:, :4], slots, 2, 0.05, 0.5, 2)
    plain = rectifier(CENTERS[:, :4], torch.arange(4), 2, 0.05, 0.5, 2)
    identity = torch.eye(6).expand(2, -1, -1)
    for place in (1, 4):
        assert torch.equal(result[:, place], identity[:, place])
        assert torch.equal(result[:, :, place], identity[:, :, place])
    spatial = torch.tensor([0, 2, 3, 5])
    assert torch.equal(result[:, spatial][:, :, spatial], plain[:, slots[spatial]][:, :, slots[spatial]])


def test_copies_of_the_centers_do_not_mix() -> None:
    first, second = torch.randperm(20, generator=torch.Generator().manual_seed(1)), torch.arange(20).flip(0)
    result = rectifier(CENTERS, torch.cat([first, second]), 4, 0.05, 0.5, 2)
    plain = rectifier(CENTERS, torch.arange(20), 4, 0.05, 0.5, 2)
    assert (result[:, :20, 20:] == 0).all()
    assert (result[:, 20:, :20] == 0).all()
    assert torch.equal(result[:, :20, :20], plain[:, first][:, :, first])
    assert torch.equal(result[:, 20:, 20:], plain[:, second][:, :, second])


def test_every_cloud_may_have_an_order_of_its_own() -> None:
    generator = torch.Generator().manual_seed(5)
    slots = torch.stack([torch.cat([torch.randperm(20, generator=generator) for _ in range(2)]) for _ in range(2)])
    slots = torch.cat([slots, torch.full((2, 1), -1)], dim=1).roll(7, 1)
    result = rectifier(CENTERS, slots, 4, 0.05, 0.5, 2)
    for cloud in range(2):
        assert torch.equal(result[[cloud]], rectifier(CENTERS[[cloud]], slots[cloud], 4, 0.05, 0.5, 2))
    assert not torch.equal(result[0] != 0, result[1] != 0)


def test_coincident_centers_are_finite_and_weigh_one_over_eps() -> None:
    centers = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]])
    result = smoothing_matrix(centers, 2, 0.25)
    torch.testing.assert_close(result[0, 0], torch.tensor([0, 4 / 4.8, 0.8 / 4.8]))
    everywhere = smoothing_matrix(torch.zeros(1, 9, 3), 4, 0.05)
    assert everywhere[0, 0].nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert everywhere[0, 8].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("loops")
def test_relative_eps_follows_the_scale_of_every_cloud() -> None:
    centers = CENTERS * torch.tensor([1.0, 1000]).view(2, 1, 1)
    result = smoothing_matrix(centers, 4, RelativeEps(0.5))
    for cloud in range(2):
        distance = torch.cdist(*(centers[[cloud]].double(),) * 2, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = (distance + 1e9 * torch.eye(20)).min(-1).values.mean()
        expected = smoothing_in_double(centers[[cloud]], 4, 0.5 * float(nearest))
        torch.testing.assert_close(result[[cloud]].double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(smoothing_matrix(CENTERS, 4, RelativeEps(0.5))[1], result[1], atol=1e-5, rtol=1e-5)
    everywhere = smoothing_matrix(torch.zeros(1, 9, 3), 4, RelativeEps(0.5))
    torch.testing.assert_close(everywhere.sum(-1), torch.ones(1, 9))


def test_one_center_has_no_neighbors() -> None:
    assert torch.equal(smoothing_matrix(torch.ones(3, 1, 3), 4, 0.05), torch.zeros(3, 1, 1))
    assert torch.equal(
        rectifier(torch.ones(3, 1, 3), torch.tensor([-1, 0]), 4, 0.05, 0.5, 2), torch.eye(2).repeat(3, 1, 1)
    )


def test_permuted_centers_permute_the_matrix() -> None:
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    permuted = rectifier(CENTERS[:, order], torch.arange(20), 4, 0.05, 0.5, 2)
    plain = rectifier(CENTERS, torch.arange(20), 4, 0.05, 0.5, 2)
    torch.testing.assert_close(permuted, plain[:, order][:, :, order], atol=1e-6, rtol=1e-5)


def test_rotations_and_shifts_change_nothing() -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3))).Q
    moved = smoothing_matrix(CENTERS @ turn + torch.tensor([1.0, -2, 3]), 4, 0.05)
    torch.testing.assert_close(moved, smoothing_matrix(CENTERS, 4, 0.05), atol=1e-5, rtol=1e-4)


def test_zero_strength_does_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("geopeft_cli.geometry.smoothing.nearest_neighbors")
    for lam, power in ((0.0, 2), (0.5, 0)):
        assert torch.equal(rectifier(CENTERS, SLOTS, 4, 0.05, lam, power), torch.eye(22).repeat(2, 1, 1))


def test_no_gradient_and_no_autocast() -> None:
    plain = rectifier(CENTERS, SLOTS, 4, 0.05, 0.5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        result = rectifier(CENTERS.clone().requires_grad_(), SLOTS, 4, 0.05, 0.5, 2)
    assert not result.requires_grad
    assert result.dtype == torch.float32
    assert torch.equal(result, plain)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="centers"):
        smoothing_matrix(CENTERS[0], 4, 0.05)
    with pytest.raises(ShapeError, match="neighbors"):
        smoothing_matrix(CENTERS, 0, 0.05)
    for slots in (SLOTS[None], SLOTS[None, None], SLOTS[0]):
        with pytest.raises(ShapeError, match=r"slots has shape .*expected \(T,\) or \(2, T\)"):
            rectifier(CENTERS, slots, 4, 0.05, 0.5, 2)
