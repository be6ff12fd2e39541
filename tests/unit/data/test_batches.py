"""Batches: the same clouds whatever the batch size or the order of epochs, and a thread that always ends."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
import torch

from geopeft_cli.data import batches as batches_module
from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import MemoryClouds, Subset
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.errors import DataError, UsageError

SIZES = [40, 20, 9, 40, 16, 33, 40, 16, 25, 40]


@pytest.fixture
def clouds(random_clouds):
    labels = np.arange(len(SIZES)) % 3
    return MemoryClouds(random_clouds(SIZES), labels, ("a", "b", "c"), [f"{i}.xyz" for i in range(len(SIZES))])


def make(clouds, batch_size=4, training=True, sampling="fps_random", **options):
    preparation = Preparation(16, sampling=sampling)
    return Batches(
        clouds,
        preparation,
        **{"batch_size": batch_size, "seed": 3, "training": training, "purpose": "train", **options},
    )


def by_index(batches):
    """Index of a cloud -> its prepared points."""
    return {int(i): p.numpy() for batch in batches for i, p in zip(batch.indices, batch.points, strict=True)}


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("geopeft")]


class Slow(MemoryClouds):
    """Fails at one cloud, or tells when each is loaded."""

    def __init__(self, inner, broken=None):
        super().__init__([inner[i].points for i in range(len(inner))], inner.labels(), inner.classes)
        self.broken = broken
        self.loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        if index == self.broken:
            raise DataError("7.xyz: is broken")
        return super().__getitem__(index)


def test_types_and_shapes(clouds):
    for batch in make(clouds).epoch(0):
        assert (batch.points.shape, batch.points.dtype) == ((4, 16, 3), torch.float32)
        assert (batch.labels.shape, batch.labels.dtype) == ((4,), torch.int64)
        assert batch.indices.dtype == torch.int64
        np.testing.assert_array_equal(batch.labels, clouds.labels()[batch.indices])


@pytest.mark.parametrize("augment", [(), ("scale_translate", "rotate_y", "jitter")])
@pytest.mark.parametrize("sampling", ["fps_random", "fps", "random"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_size_and_order_of_epochs_change_nothing(clouds, augment, sampling, training):
    options = {"augment": augment, "sampling": sampling, "training": training}
    reference = make(clouds, batch_size=10, **options)
    wanted = [by_index(reference.epoch(epoch)) for epoch in range(3)]
    assert all(len(epoch) == 10 for epoch in wanted)
    for batch_size in (1, 3, 7):
        batches = make(clouds, batch_size=batch_size, **options)
        for epoch in (2, 0, 1):
            for index, points in by_index(batches.epoch(epoch)).items():
                np.testing.assert_array_equal(points, wanted[epoch][index])


def test_order_in_training_is_new_every_epoch_and_independent_of_the_batch_size(clouds):
    orders = [
        [[int(i) for batch in make(clouds, size).epoch(epoch) for i in batch.indices] for epoch in range(3)]
        for size in (1, 5)
    ]
    assert orders[0] == orders[1]
    assert all(sorted(order) == list(range(10)) for order in orders[0])
    assert len({tuple(order) for order in orders[0]}) == 3


@pytest.mark.parametrize("option", ["seed", "purpose", "epoch"])
def test_the_key_of_a_draw(clouds, option):
    first = by_index(make(clouds, sampling="random").epoch(0))
    again = by_index(make(clouds, sampling="random").epoch(0))
    changed = {"seed": {"seed": 4}, "purpose": {"purpose": "other"}, "epoch": {}}[option]
    other = by_index(make(clouds, sampling="random", **changed).epoch(1 if option == "epoch" else 0))
    shared = first.keys() & other.keys()
    assert shared
    for index in shared:
        np.testing.assert_array_equal(first[index], again[index])
        assert not np.array_equal(first[index], other[index])


@pytest.mark.parametrize(
    ("batch_size", "full", "everything"), [(1, 10, 10), (4, 2, 3), (5, 2, 2), (10, 1, 1), (32, 1, 1)]
)
def test_number_of_batches(clouds, batch_size, full, everything):
    for training, count in ((True, full), (False, everything)):
        batches = make(clouds, batch_size, training)
        sizes = [len(batch.labels) for batch in batches.epoch(0)]
        assert len(batches) == len(sizes) == count
        assert sum(sizes) == (min(10, count * batch_size) if training else 10)


def test_testing_goes_in_stored_order_without_augmentation_and_reads_once(clouds):
    source = Slow(clouds)
    batches = make(source, training=False, augment=("scale_translate",))
    first = list(batches.epoch(0))
    assert torch.cat([batch.indices for batch in first]).tolist() == list(range(10))
    assert source.loaded == list(range(10))
    plain = make(clouds, training=False)
    for ours, wanted, again in zip(first, plain.epoch(0), batches.epoch(7), strict=True):
        assert torch.equal(ours.points, wanted.points)
        assert torch.equal(ours.points, again.points)
    assert source.loaded == list(range(10))


def test_testing_does_not_depend_on_the_purpose(clouds):
    ours, wanted = (make(clouds, training=False, sampling="random", purpose=purpose) for purpose in ("test", "final"))
    np.testing.assert_equal(by_index(ours.epoch(0)), by_index(wanted.epoch(0)))


@pytest.mark.parametrize("training", [True, False])
def test_the_cache_is_bounded_and_changes_nothing(clouds, training, monkeypatch):
    wanted = by_index(make(clouds, training=training).epoch(1))
    # three prepared clouds of 16 points and their picks fit; so does one raw cloud of 40 points and one of 9
    monkeypatch.setattr(batches_module, "CACHE_BYTES", 3 * 16 * (12 + 8))
    source = Slow(clouds)
    batches = make(source, training=training)
    list(batches.epoch(0))
    assert min(batches._trained._left, batches._tested._left) >= 0
    source.loaded.clear()
    np.testing.assert_equal(by_index(batches.epoch(1)), wanted)
    assert 0 < len(source.loaded) < 10


def test_raw_clouds_are_read_once_in_training(clouds):
    source = Slow(clouds)
    batches = make(source, batch_size=5)
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert sorted(source.loaded) == list(range(10))


def test_batchwise_rotation_has_one_angle_a_batch(random_clouds):
    points = random_clouds([16])[0]
    clouds = MemoryClouds([points] * 6, [0] * 6, ("a",))
    batches = make(clouds, batch_size=3, sampling="fps", augment=("rotate_y_batch",))
    angles = []
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            heights = batch.points[:, :, 1].argsort(dim=1)
            upright = torch.gather(batch.points, 1, heights[..., None].expand(-1, -1, 3))
            directions = torch.atan2(upright[:, :, 0], upright[:, :, 2])
            torch.testing.assert_close(directions[0], directions[1], atol=1e-4, rtol=0)
            torch.testing.assert_close(directions[0], directions[2], atol=1e-4, rtol=0)
            angles.append(float(directions[0, 0]))
    assert len(set(angles)) == 4


def test_a_single_cloud_cannot_be_trained_on(clouds):
    with pytest.raises(DataError, match=r"one cloud: 4\.xyz"):
        make(Subset(clouds, [4]))
    assert len(list(make(Subset(clouds, [4]), training=False).epoch(0))) == 1


def test_empty_sets_and_unknown_augmentations(clouds):
    with pytest.raises(DataError, match="the train set has no clouds"):
        make(Subset(clouds, []))
    with pytest.raises(UsageError, match="unknown spin"):
        make(clouds, augment=("spin",))


@pytest.mark.parametrize("training", [True, False])
def test_small_clouds_are_told_of_once(clouds, caplog, training):
    batches = make(clouds, batch_size=5, training=training)
    for epoch in range(2):
        list(batches.epoch(epoch))
    assert [record.getMessage() for record in caplog.records] == [
        "train: clouds with fewer than 16 points, which repeat some of them: 1; the first is 2.xyz with 9"
    ]


def test_nothing_is_said_of_large_clouds(clouds, caplog):
    list(make(Subset(clouds, [0, 3])).epoch(0))
    assert not caplog.records


class TestThread:
    def test_prepares_one_batch_ahead(self, clouds):
        source = Slow(clouds)
        iterator = make(source, batch_size=2, training=False).epoch(0)
        next(iterator)
        threading.Event().wait(0.2)
        assert source.loaded == [0, 1, 2, 3]
        iterator.close()

    def test_ends_after_the_last_batch(self, clouds):
        list(make(clouds).epoch(0))
        assert not prefetch_threads()

    def test_ends_when_the_loop_is_left(self, clouds):
        for _ in make(clouds).epoch(0):
            assert prefetch_threads()
            break
        assert not prefetch_threads()

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_ends_when_the_loop_fails(self, clouds, error):
        def loop():
            for _ in make(clouds).epoch(0):
                raise error

        with pytest.raises(error):
            loop()
        assert not prefetch_threads()

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals between threads here")
    def test_ends_on_control_c_while_waiting_for_a_batch(self, clouds):
        """The signal arrives while the consumer waits for a cloud that takes long."""
        waiting, release = threading.Event(), threading.Event()

        class Stuck(Slow):
            def __getitem__(self, index):
                waiting.set()
                release.wait(10)
                return super().__getitem__(index)

        def interrupt():
            waiting.wait(5)
            threading.Event().wait(0.2)  # by now the consumer waits too
            signal.pthread_kill(main, signal.SIGINT)
            release.set()

        main = threading.main_thread().ident
        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            list(make(Stuck(clouds), batch_size=2).epoch(0))
        helper.join()
        assert not prefetch_threads()

    def test_its_errors_reach_the_loop(self, clouds):
        batches = make(Slow(clouds, broken=7), batch_size=2, training=False)
        seen = []
        with pytest.raises(DataError, match=r"7\.xyz: is broken"):
            seen.extend(int(i) for batch in batches.epoch(0) for i in batch.indices)
        assert not prefetch_threads()

    def test_never_starts_for_an_unused_iterator(self, clouds):
        iterator = make(clouds).epoch(0)
        assert not prefetch_threads()
        iterator.close()
