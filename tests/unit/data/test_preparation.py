"""Normalizing and drawing points, against the published procedure."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from geopeft_cli.data.clouds import Cloud
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.geometry.sampling import farthest_point_sample

SAMPLINGS = ["fps_random", "fps", "random"]


def generators(count: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + index) for index in range(count)]


def rows(points: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in points}


def test_unit_sphere():
    points = np.random.default_rng(0).uniform(5, 9, (500, 3))
    normalized = Preparation(64).normalized(Cloud(points, 0, "a"))
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(normalized, axis=1).max() == pytest.approx(1, abs=1e-6)
    centered = points - points.mean(axis=0)
    np.testing.assert_allclose(normalized, centered / np.linalg.norm(centered, axis=1).max(), atol=1e-6)


@pytest.mark.parametrize("normalize", ["center", "unit_sphere"])
def test_survey_coordinates_are_centered_before_they_are_rounded(normalize):
    near = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    far = near + np.array([500_000, 5_400_000, 100])
    preparation = Preparation(64, normalize)
    ours, wanted = (preparation.normalized(Cloud(points, 0, "a")) for points in (far, near))
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_no_normalization_keeps_small_coordinates_as_they_are(caplog):
    points = np.random.default_rng(0).uniform(5, 9, (50, 3))
    np.testing.assert_array_equal(Preparation(64, "none").normalized(Cloud(points, 0, "a")), points.astype(np.float32))
    assert not caplog.records


def test_large_coordinates_without_normalization_are_warned_of_once(caplog):
    preparation = Preparation(64, "none")
    for name in ("first.xyz", "second.xyz"):
        preparation.normalized(Cloud(np.full((5, 3), 2e4), 0, name))
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "geopeft"
    assert caplog.records[0].levelno == logging.WARNING
    assert "first.xyz has coordinates up to 20000" in caplog.text


def test_the_source_is_not_changed():
    points = np.full((5, 3), 7.0)
    Preparation(4).normalized(Cloud(points, 0, "a"))
    np.testing.assert_array_equal(points, 7.0)


def test_coinciding_points_become_zeros():
    normalized = Preparation(64).normalized(Cloud(np.full((50, 3), 7.0), 0, "a"))
    np.testing.assert_array_equal(normalized, 0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("training", [True, False])
def test_coinciding_points_can_be_drawn(sampling, training):
    drawn = Preparation(16, sampling=sampling).draw([np.zeros((30, 3), np.float32)], generators(1), training)
    np.testing.assert_array_equal(drawn, np.zeros((1, 16, 3)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("training", [True, False])
def test_no_clouds_draw_depends_on_its_company(random_clouds, sampling, training):
    clouds = random_clouds([40, 16, 40, 9, 100, 16])
    preparation = Preparation(16, sampling=sampling)
    together = preparation.draw(clouds, generators(6), training)
    assert together.shape == (6, 16, 3)
    assert together.dtype == np.float32
    for index, cloud in enumerate(clouds):
        alone = preparation.draw([cloud], generators(1, index), training)
        np.testing.assert_array_equal(together[index], alone[0])
        assert rows(together[index]) <= rows(cloud)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_training_draws_are_new_and_testing_ones_are_not_shuffled(random_clouds, sampling):
    clouds = random_clouds([40])
    preparation = Preparation(16, sampling=sampling)
    first, second = (preparation.draw(clouds, generators(1, seed), training=True) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("training", [True, False])
def test_small_clouds_give_all_points_then_repeats(random_clouds, sampling, training):
    (cloud,) = random_clouds([11])
    (drawn,) = Preparation(16, sampling=sampling).draw([cloud], generators(1), training)
    assert rows(drawn[:11]) == rows(cloud)
    assert rows(drawn[11:]) <= rows(cloud)
    if not training:
        np.testing.assert_array_equal(drawn[:11], cloud)


def test_random_takes_distinct_points(random_clouds):
    clouds = random_clouds([40])
    preparation = Preparation(16, sampling="random")
    for training in (True, False):
        (drawn,) = preparation.draw(clouds, generators(1), training)
        assert len(rows(drawn)) == 16
    counts = np.zeros(40)
    for seed in range(2000):
        (drawn,) = preparation.draw(clouds, generators(1, seed), training=True)
        counts[[np.flatnonzero((clouds[0] == row).all(axis=1))[0] for row in drawn]] += 1
    # every point in 16 of 40 draws: 800 of 2000, standard deviation 22
    assert np.abs(counts - 800).max() < 110


def test_random_keeps_the_order_of_a_cloud_of_the_right_size_in_testing(random_clouds):
    clouds = random_clouds([16])
    preparation = Preparation(16, sampling="random")
    np.testing.assert_array_equal(preparation.draw(clouds, generators(1), training=False)[0], clouds[0])
    shuffled = preparation.draw(clouds, generators(1), training=True)[0]
    assert not np.array_equal(shuffled, clouds[0])
    assert rows(shuffled) == rows(clouds[0])


@pytest.mark.parametrize("sampling", ["fps_random", "fps"])
def test_testing_is_farthest_point_sampling_from_the_stored_order(random_clouds, sampling):
    clouds = random_clouds([200])
    picks = farthest_point_sample(torch.from_numpy(clouds[0])[None], 32)[0].numpy()
    drawn = Preparation(32, sampling=sampling).draw(clouds, generators(1), training=False)
    np.testing.assert_array_equal(drawn[0], clouds[0][picks])


@pytest.mark.parametrize(
    ("points", "size", "candidates"),
    [(1024, 3000, 1200), (2048, 3000, 2400), (1024, 1100, 1100), (100, 500, 120), (33, 500, 40)],
)
def test_training_draws_among_the_published_number_of_candidates(random_clouds, points, size, candidates):
    (cloud,) = random_clouds([size])
    order = np.random.default_rng(0).permutation(size)
    shuffled = cloud[order]
    picks = farthest_point_sample(torch.from_numpy(shuffled)[None], candidates)[0].numpy()
    allowed = shuffled[picks]
    preparation = Preparation(points, sampling="fps_random")
    (drawn,) = preparation.draw([cloud], generators(1), training=True)
    assert rows(drawn) <= rows(allowed)
    assert len(drawn) == points
    if points < candidates:
        # a choice among all of them, not the first ones
        assert not rows(drawn) <= rows(allowed[:points])


def test_fps_in_training_starts_from_the_shuffled_cloud(random_clouds):
    (cloud,) = random_clouds([200])
    shuffled = cloud[np.random.default_rng(0).permutation(200)]
    picks = farthest_point_sample(torch.from_numpy(shuffled)[None], 32)[0].numpy()
    (drawn,) = Preparation(32, sampling="fps").draw([cloud], generators(1), training=True)
    np.testing.assert_array_equal(drawn, shuffled[picks])


def test_near_origin_points_are_lost_as_published_or_kept(random_clouds):
    (cloud,) = random_clouds([64])
    cloud[10:15] *= 1e-3
    skipped = Preparation(64, sampling="fps").draw([cloud], generators(1), training=False)[0]
    kept = Preparation(64, sampling="fps", near_origin="keep").draw([cloud], generators(1), training=False)[0]
    assert len(rows(skipped)) == 64 - 5
    assert rows(kept) == rows(cloud)
