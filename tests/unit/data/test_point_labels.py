"""Labels of points: they stay with their points through every draw, cache and augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import IGNORED, Cloud, MemoryClouds, Subset
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.errors import DataError

SIZES = [40, 20, 9, 40, 16, 33]
SAMPLINGS = ["fps_random", "fps", "random", "with_replacement"]
NAMES = [f"part {label}" for label in range(40)]


@pytest.fixture
def parts(random_clouds):
    """Clouds of two categories in which the label of a point is its place, but for the first, which is ignored."""
    labels = [np.r_[IGNORED, 1:size].astype(np.int16) for size in SIZES]
    return MemoryClouds(random_clouds(SIZES), np.arange(6) % 2, ("a", "b"), point_labels=labels, part_names=NAMES)


def make(clouds, sampling, training=True, **options):
    values = {"batch_size": 2, "seed": 3, "training": training, "purpose": "train", **options}
    return Batches(clouds, Preparation(16, "none", sampling), **values)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_labels_and_picks_are_of_the_points(parts, sampling, training):
    batches = make(parts, sampling, training)
    for batch in (*batches.epoch(0), *batches.epoch(1)):
        assert (batch.point_labels.dtype, batch.picks.dtype) == (torch.int64, torch.int64)
        assert batch.labels.tolist() == parts.labels()[batch.indices].tolist()
        for index, points, picks, labels in zip(
            batch.indices, batch.points, batch.picks, batch.point_labels, strict=True
        ):
            cloud = parts[int(index)]
            np.testing.assert_array_equal(points, cloud.points[picks])
            np.testing.assert_array_equal(labels, cloud.point_labels[picks])


@pytest.mark.parametrize("augment", ["scale_translate", "rotate_y", "rotate_y_batch", "scale_shift", "jitter"])
def test_augmentation_leaves_the_order_of_points(parts, augment):
    plain, changed = (next(make(parts, "random", augment=names).epoch(4)) for names in ((), (augment,)))
    assert torch.equal(plain.point_labels, changed.point_labels)
    assert torch.equal(plain.picks, changed.picks)
    assert not torch.equal(plain.points, changed.points)


@pytest.mark.parametrize("training", [True, False])
def test_points_drawn_with_replacement_repeat_and_depend_on_the_cloud_alone(parts, training):
    def picked(batch_size, epoch, **options):
        batches = make(parts, "with_replacement", training, batch_size=batch_size, **options)
        return {
            int(i): p.tolist()
            for batch in batches.epoch(epoch)
            for i, p in zip(batch.indices, batch.picks, strict=True)
        }

    first = picked(1, 0)
    assert picked(6, 0) == first == picked(3, 0)
    assert (picked(1, 1) == first) is not training
    assert picked(1, 0, seed=4) != first
    repeats = [16 - len(set(picks)) for picks in first.values()]
    assert min(repeats[:2]) > 0
    assert all(max(picks) < SIZES[index] for index, picks in first.items())


def test_all_points_of_a_cloud_are_drawn_alike_with_replacement():
    cloud = np.zeros((10, 3), np.float32)
    picks = Preparation(20000, sampling="with_replacement").picks([cloud], [np.random.default_rng(0)], training=False)
    assert np.bincount(picks[0], minlength=10) == pytest.approx(2000, rel=0.1)


def test_a_set_without_part_names_has_no_labels_of_points(random_clouds):
    clouds = MemoryClouds(random_clouds(SIZES), np.zeros(6), ("a",))
    assert clouds.parts == Subset(clouds, [1]).parts == {}
    assert all(batch.point_labels is None for batch in make(clouds, "random").epoch(0))


def test_what_a_set_says_of_its_parts(parts):
    for clouds in (parts, Subset(parts, [2, 0])):
        assert clouds.part_names == tuple(NAMES)
        assert clouds.parts == {"a": tuple(range(40)), "b": tuple(range(40))}
    assert Subset(parts, [2, 0])[0].point_labels.tolist() == parts[2].point_labels.tolist()


@pytest.mark.parametrize("labels", [None, np.zeros(7, np.int64)])
def test_a_cloud_without_a_label_for_every_point_is_refused(random_clouds, labels):
    class Odd(MemoryClouds):
        def __getitem__(self, index):
            cloud = super().__getitem__(index)
            return Cloud(cloud.points, cloud.label, "odd.txt", labels) if index == 1 else cloud

    point_labels = [np.zeros(size, np.int64) for size in SIZES]
    clouds = Odd(random_clouds(SIZES), np.zeros(6), ("a",), point_labels=point_labels, part_names=["x"])
    with pytest.raises(DataError, match=r"odd\.txt: has 20 points and (no|7) labels"):
        list(make(clouds, "random", training=False).epoch(0))


class Fresh(MemoryClouds):
    """Gives points that are the draw of the generator, in training."""

    def fresh(self, index, generator):
        cloud = self[index]
        return Cloud(cloud.points + np.float32(generator.integers(1, 1000)), cloud.label, cloud.name)


def test_fresh_clouds_are_new_in_every_epoch_of_training_alone(random_clouds):
    clouds = Fresh(random_clouds([16] * 4), np.zeros(4), ("a",))

    def shifts(training, epoch, batch_size=2):
        batches = make(clouds, "fps", training, batch_size=batch_size)
        return {
            int(i): float(p.mean())
            for batch in batches.epoch(epoch)
            for i, p in zip(batch.indices, batch.points, strict=True)
        }

    assert len({round(value, 2) for epoch in range(3) for value in shifts(True, epoch).values()}) == 12
    assert shifts(True, 1) == shifts(True, 1, batch_size=4)
    assert shifts(False, 0) == shifts(False, 1)
    assert max(shifts(False, 0).values()) < 1
