"""Augmentations: the ranges of the published code on many draws, and what each leaves alone."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from geopeft_cli.data.augmentation import AUGMENTATIONS, ONE_DRAW_PER_BATCH
from geopeft_cli.recipe.data import Augmentation

DRAWS = 10_000
BASIS = np.vstack([np.zeros(3), np.eye(3)]).astype(np.float32)


def draws(name: str) -> np.ndarray:
    """(DRAWS, 4, 3): where the origin and the three unit vectors go."""
    generator = np.random.default_rng(0)
    return np.stack([AUGMENTATIONS[name](BASIS, generator) for _ in range(DRAWS)])


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    width = high - low
    assert values.min() >= low - 1e-6
    assert values.max() <= high + 1e-6
    counts, _ = np.histogram(values, bins=10, range=(low - 1e-6, high + 1e-6))
    # a tenth each; standard deviation of a count: sqrt(n * .1 * .9)
    assert np.abs(counts - values.size / 10).max() < 5 * np.sqrt(values.size * 0.09)
    assert values.mean() == pytest.approx((low + high) / 2, abs=5 * width / np.sqrt(12 * values.size))


def test_recipes_know_exactly_these_names():
    assert set(get_args(Augmentation)) == set(AUGMENTATIONS)
    assert set(AUGMENTATIONS) >= ONE_DRAW_PER_BATCH


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_type_and_input_untouched(name):
    points = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    before = points.copy()
    changed = AUGMENTATIONS[name](points, np.random.default_rng(2))
    assert changed.shape == (50, 3)
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(points, before)
    assert not np.array_equal(changed, points)
    np.testing.assert_array_equal(changed, AUGMENTATIONS[name](points, np.random.default_rng(2)))


@pytest.mark.parametrize(
    ("name", "scales", "shift", "per_axis"),
    [
        ("scale_translate", (2 / 3, 3 / 2), 0.2, True),
        ("scale_small", (0.9, 1.1), 0.0, True),
        ("scale_shift", (0.8, 1.25), 0.1, False),
    ],
)
def test_scales_and_shifts(name, scales, shift, per_axis):
    moved = draws(name)
    origin = moved[:, 0]
    scale = np.einsum("dii->di", moved[:, 1:] - origin[:, None])
    assert_uniform(scale, *scales) if per_axis else assert_uniform(scale[:, 0], *scales)
    correlation = np.corrcoef(scale.T)[0, 1]
    assert abs(correlation) < 0.05 if per_axis else correlation > 0.999
    if shift:
        assert_uniform(origin, -shift, shift)
        assert np.abs(np.corrcoef(origin.T)[0, 1:]).max() < 0.05
    else:
        assert not origin.any()


@pytest.mark.parametrize(("name", "axis"), [("rotate_y", 1), ("rotate_y_batch", 1), ("rotate_z", 2)])
def test_rotations(name, axis):
    moved = draws(name)
    assert not moved[:, 0].any()
    matrices = moved[:, 1:].astype(np.float64)
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-6)
    points = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    turned = AUGMENTATIONS[name](points, np.random.default_rng(3))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(points, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(turned[:, axis], points[:, axis])
    first, second = (axis + 1) % 3, (axis + 2) % 3
    assert_uniform(np.arctan2(matrices[:, first, second], matrices[:, first, first]), -np.pi, np.pi)


def test_rotate_y_is_the_published_matrix():
    angle = np.random.default_rng(3).uniform(0, 2 * np.pi)
    matrix = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    turned = AUGMENTATIONS["rotate_y"](np.eye(3, dtype=np.float32), np.random.default_rng(3))
    np.testing.assert_allclose(turned, matrix, atol=1e-7)


def test_rotate_y_batch_is_the_published_transpose():
    angle = np.random.default_rng(3).uniform(-np.pi, np.pi)
    matrix = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    turned = AUGMENTATIONS["rotate_y_batch"](np.eye(3, dtype=np.float32), np.random.default_rng(3))
    np.testing.assert_allclose(turned, np.transpose(matrix), atol=1e-7)


def test_jitter():
    points = np.zeros((200_000, 3), dtype=np.float32)
    moved = AUGMENTATIONS["jitter"](points, np.random.default_rng(0))
    assert moved.std() == pytest.approx(0.01, rel=0.01)
    assert abs(moved.mean()) < 1e-4
    assert np.abs(moved).max() <= np.float32(0.05)
    far = AUGMENTATIONS["jitter"](np.zeros((3_000_000, 3), dtype=np.float32), np.random.default_rng(0))
    # of nine million draws five are expected beyond five standard deviations: they are cut off, not redrawn
    assert np.abs(far).max() == np.float32(0.05)
