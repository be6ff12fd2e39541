"""Changes of where the points of a scene are, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import interpolate, ndimage

from geopeft_cli.data import scene_motions as motions
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import DataError


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(300, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    coordinates = rng.uniform((1, 2, 3), (5, 5, 6), (300, 3)).astype(np.float32)
    return Scene("scene", coordinates, np.zeros(300, dtype=np.int64), normals=normals.astype(np.float32))


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_center_shift(scene: Scene) -> None:
    low, high = scene.coordinates.min(axis=0), scene.coordinates.max(axis=0)
    shifted = motions.center_shift(scene).coordinates
    assert np.allclose(shifted, scene.coordinates - [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], atol=1e-6)
    level = motions.center_shift(scene, vertical=False).coordinates
    assert np.array_equal(level[:, 2], scene.coordinates[:, 2])


def test_center_shift_keeps_survey_coordinates(scene: Scene) -> None:
    far = Scene("far", scene.coordinates + np.array([500_000.0, 5_400_000.0, 300.0]), scene.labels)
    shifted = motions.center_shift(far)
    assert shifted.coordinates.dtype == np.float32
    assert np.allclose(shifted.coordinates, motions.center_shift(scene).coordinates, atol=1e-6)


def test_quarter_turns_about_each_axis(scene: Scene) -> None:
    points, normals = scene.coordinates, scene.normals
    assert normals is not None
    for axis, order, signs in (
        ("x", [0, 2, 1], (1, -1, 1)),
        ("y", [2, 1, 0], (1, 1, -1)),
        ("z", [1, 0, 2], (-1, 1, 1)),
    ):
        turned = motions.rotated(scene, axis, np.pi / 2, (0, 0, 0))  # type: ignore[arg-type]
        assert np.allclose(turned.coordinates, points[:, order] * signs, atol=1e-5)
        assert turned.normals is not None
        assert np.allclose(turned.normals, normals[:, order] * signs, atol=1e-6)


def test_rotation_about_the_middle_of_the_box(scene: Scene) -> None:
    turned = motions.rotated(scene, "x", np.pi)
    low, high = scene.coordinates.min(axis=0), scene.coordinates.max(axis=0)
    assert np.allclose(turned.coordinates.min(axis=0), low, atol=1e-5)
    assert np.allclose(turned.coordinates.max(axis=0), high, atol=1e-5)


def test_random_rotation_stays_in_its_range_and_happens_so_often(scene: Scene) -> None:
    rng, happened = generator(), 0
    for _ in range(200):
        turned = motions.random_rotate(scene, rng, "z", (0.1, 0.2), (0, 0, 0), probability=0.3)
        if turned is scene:
            continue
        happened += 1
        angle = np.arctan2(*turned.coordinates[0, 1::-1]) - np.arctan2(*scene.coordinates[0, 1::-1])
        assert 0.1 * np.pi - 1e-5 <= angle <= 0.2 * np.pi + 1e-5
    assert 40 < happened < 80


def test_quarter_turns_are_drawn_from_the_list(scene: Scene) -> None:
    turned = motions.random_quarter_turn(scene, generator(), (1.0,), center=(0, 0, 0), probability=1)
    assert np.allclose(turned.coordinates, scene.coordinates * (-1, -1, 1), atol=1e-5)


def test_scale(scene: Scene) -> None:
    ratio = motions.random_scale(scene, generator(), 0.8, 0.9).coordinates / scene.coordinates
    assert np.ptp(ratio) < 1e-6
    assert 0.8 <= ratio[0, 0] <= 0.9


def test_flipping_both_axes_is_the_half_turn(scene: Scene) -> None:
    flipped = motions.random_flip(scene, generator(), probability=1)
    turned = motions.rotated(scene, "z", np.pi, (0, 0, 0))
    assert np.allclose(flipped.coordinates, turned.coordinates, atol=1e-5)
    assert flipped.normals is not None
    assert turned.normals is not None
    assert np.allclose(flipped.normals, turned.normals, atol=1e-6)


def test_axes_are_flipped_independently(scene: Scene) -> None:
    rng = generator()
    signs = [tuple(np.sign(motions.random_flip(scene, rng).coordinates[0, :2])) for _ in range(100)]
    assert len(set(signs)) == 4


def test_jitter_is_cut_off(scene: Scene) -> None:
    moves = motions.random_jitter(scene, generator(), 0.02, 0.03).coordinates - scene.coordinates
    assert np.abs(moves).max() == pytest.approx(0.03, abs=1e-6)
    assert 0.012 < moves.std() < 0.02


def test_points_are_clamped_not_removed(scene: Scene) -> None:
    clamped = motions.point_clip(scene, (2, 2, 2), (3, 3, 7))
    assert len(clamped) == len(scene)
    assert np.array_equal(clamped.coordinates, scene.coordinates.clip((2, 2, 2), (3, 3, 7)))


def test_elastic_distortion_as_scipy_computes_it(scene: Scene) -> None:
    waves = ((0.2, 0.4), (0.8, 1.6))
    rng = generator()
    rng.random()
    expected = scene.coordinates.astype(np.float64)
    for size, magnitude in waves:
        low = expected.min(axis=0)
        nodes = ((expected.max(axis=0) - low) // size).astype(int) + 3
        noise = rng.standard_normal((*nodes, 3), dtype=np.float32)
        for _ in range(2):
            for axis in range(3):
                kernel = np.expand_dims(np.ones(3) / 3, [at for at in range(4) if at != axis])
                noise = ndimage.convolve(noise, kernel, mode="constant", cval=0)
        axes = [np.linspace(low[at] - size, low[at] + size * (nodes[at] - 2), nodes[at]) for at in range(3)]
        shift = interpolate.RegularGridInterpolator(axes, noise, bounds_error=False, fill_value=0)(expected)
        expected = expected + magnitude * shift
    bent = motions.elastic_distortion(scene, generator(), waves)
    assert np.abs(bent.coordinates - scene.coordinates).max() > 0.01
    assert np.allclose(bent.coordinates, expected, atol=1e-5)
    assert bent.normals is scene.normals


def test_elastic_distortion_of_one_point_and_of_none_by_chance(scene: Scene) -> None:
    one = scene.take(np.array([0]))
    assert np.isfinite(motions.elastic_distortion(one, generator(), probability=1).coordinates).all()
    assert motions.elastic_distortion(scene, generator(), probability=0) is scene


def test_a_scene_in_millimeters_is_not_bent(scene: Scene) -> None:
    wide = motions.scaled(scene, 1000)
    with pytest.raises(DataError, match=r"scene scene is 39\d\d x 29\d\d x 2\d\d\d m, too wide to be bent"):
        motions.elastic_distortion(wide, generator(), probability=1)
