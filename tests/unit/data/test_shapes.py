"""The embedded set: reproducible clouds, sound objects, and a scan domain that looks like one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geopeft_cli.data.clouds import Splits
from geopeft_cli.data.shapes import CLASSES, DOMAINS, MAKERS, Shapes, sample_surface, shapes_splits, visible
from geopeft_cli.data.solids import Box, Ellipsoid, Prism, Revolution, block, polygon_area
from geopeft_cli.errors import UsageError


@pytest.fixture(params=DOMAINS)
def splits(request: pytest.FixtureRequest) -> Splits:
    return shapes_splits(request.param, 3, 1, 2, seed=5, points=256)


def test_parts_are_balanced(splits: Splits) -> None:
    assert len(CLASSES) >= 12
    assert splits.validation is not None
    for part, per_class in ((splits.train, 3), (splits.validation, 1), (splits.test, 2)):
        assert part.classes == CLASSES
        assert len(part) == per_class * len(CLASSES)
        labels = part.labels()
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [per_class] * len(CLASSES)


def test_clouds_are_what_they_say(splits: Splits) -> None:
    labels = splits.train.labels()
    for index in range(len(splits.train)):
        cloud = splits.train[index]
        assert cloud.points.shape == (256, 3)
        assert cloud.points.dtype == np.float32
        assert np.isfinite(cloud.points).all()
        assert cloud.label == labels[index]
        assert cloud.name == f"{CLASSES[cloud.label]}_{index % 3:04d}"


def test_a_cloud_does_not_depend_on_what_was_asked_before(splits: Splits) -> None:
    forward = [splits.train[index].points for index in range(len(splits.train))]
    for index in reversed(range(len(splits.train))):
        assert np.array_equal(splits.train[index].points, forward[index])


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_larger_set_begins_with_the_same_clouds(domain: str) -> None:
    small, large = Shapes(domain, "train", 2, 0, 128), Shapes(domain, "train", 5, 0, 128)
    for label in range(len(CLASSES)):
        for number in range(2):
            one, other = small[2 * label + number], large[5 * label + number]
            assert one.name == other.name
            assert np.array_equal(one.points, other.points)


def test_parts_domains_and_seeds_share_no_cloud() -> None:
    sets = [Shapes(domain, part, 2, 0, 64) for domain in DOMAINS for part in ("train", "validation", "test")]
    sets.append(Shapes("clean", "train", 2, 1, 64))
    clouds = [clouds[index].points.tobytes() for clouds in sets for index in range(len(clouds))]
    assert len(set(clouds)) == len(clouds)


def test_no_validation_part_when_none_is_asked_for() -> None:
    assert shapes_splits("clean", 1, 0, 1, seed=0, points=16).validation is None


def test_unknown_domain_is_refused() -> None:
    with pytest.raises(UsageError, match="noisy"):
        shapes_splits("noisy", 1, 1, 1, seed=0, points=16)


@pytest.mark.parametrize("index", [-1, len(CLASSES)])
def test_there_is_no_cloud_beyond_the_set(index: int) -> None:
    with pytest.raises(IndexError):
        Shapes("clean", "train", 1, 0, 16)[index]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("points", [1, 33, 4096])
def test_any_number_of_points(domain: str, points: int) -> None:
    clouds = Shapes(domain, "test", 1, 0, points)
    for index in range(0, len(clouds), 5):
        assert clouds[index].points.shape == (points, 3)


def test_points_come_in_random_order(splits: Splits) -> None:
    for index in range(0, len(splits.train), 3):
        points = splits.train[index].points
        assert np.abs(points[:128].mean(axis=0) - points[128:].mean(axis=0)).max() < 0.2


@pytest.mark.parametrize("name", CLASSES)
def test_objects_are_sound(name: str) -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        parts = MAKERS[name](rng)
        for part in parts:
            solid = part.solid
            if isinstance(solid, Box):
                assert min(solid.size) > 0
            elif isinstance(solid, Ellipsoid):
                assert min(solid.radii) > 0
            else:
                assert isinstance(solid, (Prism, Revolution))
                assert polygon_area(solid.profile) > 0
                assert is_simple(solid.profile)
                assert isinstance(solid, Prism) or solid.profile[:, 0].min() >= 0
        points = np.concatenate([part.sample(50, rng) for part in parts])
        assert 0.3 < np.ptp(points, axis=0).max() < 1.8
        if name != "airplane":
            assert -0.07 < points[:, 1].min() < 0.1


def is_simple(polygon: np.ndarray) -> bool:
    """Whether no two edges cross."""
    edges = list(zip(polygon, np.roll(polygon, -1, axis=0), strict=True))

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    return not any(
        side(a, b, c) * side(a, b, d) < -1e-15 and side(c, d, a) * side(c, d, b) < -1e-15
        for i, (a, b) in enumerate(edges)
        for c, d in edges[i + 2 :]
    )


@pytest.mark.parametrize("name", ["chair", "lamp", "bottle", "guitar", "bookshelf"])
def test_y_is_up(name: str) -> None:
    clouds = Shapes("clean", "train", 10, 0, 256)
    first = 10 * CLASSES.index(name)
    extents = np.mean([np.ptp(clouds[first + number].points, axis=0) for number in range(10)], axis=0)
    assert extents.argmax() == 1


def test_surfaces_are_those_of_the_union() -> None:
    low, high = block((0, 1), (0, 1), (0, 1)), block((0.5, 1.5), (0.5, 1.5), (0.5, 1.5))
    points = sample_surface([low, high], 8000, np.random.default_rng(0))
    assert points.shape == (8000, 3)
    for corner in (0.0, 0.5):
        assert not ((points > corner + 1e-9) & (points < corner + 1 - 1e-9)).all(axis=1).any()
    # Of either cube's six faces three are whole and three lose a quarter: 2 * 5.25 in all.
    assert (np.abs(points[:, 1]) < 1e-9).mean() == pytest.approx(1 / 10.5, abs=0.012)
    assert (np.abs(points[:, 1] - 1) < 1e-9).mean() == pytest.approx(0.75 / 10.5, abs=0.012)


def test_scans_stand_on_a_floor() -> None:
    clouds = Shapes("scan", "train", 5, 0, 1024)
    for index in range(len(clouds)):
        y = clouds[index].points[:, 1]
        assert np.quantile(y, 0.02) > -0.05
        assert 0.01 < (y < 0.02).mean() < 0.6


def test_scans_are_turned_about_y() -> None:
    clouds, first = Shapes("scan", "train", 20, 0, 512), 20 * CLASSES.index("bed")
    yaw = [heading(clouds[first + number].points) for number in range(20)]
    assert abs(np.exp(2j * np.array(yaw)).mean()) < 0.5


def heading(points: np.ndarray) -> float:
    """The direction of greatest extent on the floor, in radians."""
    flat = points[points[:, 1] > 0.03][:, [0, 2]]
    axis = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][0]
    return math.atan2(axis[1], axis[0])


def test_scans_show_one_side_and_clean_shapes_all() -> None:
    share = {}
    for domain in DOMAINS:
        clouds = Shapes(domain, "train", 1, 0, 1024)
        share[domain] = np.mean([best_view(clouds[index].points) for index in range(len(clouds))])
    assert share["scan"] > 0.8
    assert share["clean"] < 0.7


def best_view(points: np.ndarray) -> float:
    """The greatest share of ``points`` that any of some cameras around sees."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    size = float(np.ptp(points, axis=0).max())
    shares = []
    for around in np.arange(24) * math.pi / 12:
        for above in (0.2, 0.5, 0.8):
            toward = (math.cos(around) * math.cos(above), math.sin(above), math.sin(around) * math.cos(above))
            shares.append(visible(points, middle + 2.2 * size * np.array(toward), middle, size / 25).mean())
    return max(shares)


def test_a_camera_sees_the_near_cap_of_a_sphere() -> None:
    points = Ellipsoid((1.0, 1.0, 1.0)).sample(60_000, np.random.default_rng(0))
    eye = np.array([2.0, 1.0, -2.0])
    seen = visible(points, eye, np.zeros(3), 0.05)
    # The horizon of a unit sphere from a distance d is where the cosine to the eye is 1 / d.
    cosine = points @ eye / 3
    assert seen[cosine > 0.65].mean() > 0.97
    assert seen[cosine < -0.1].mean() < 0.01
