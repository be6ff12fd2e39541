"""Stratified splits, keyed generators, and the way from a format's name to its clouds."""

from __future__ import annotations

import numpy as np
import pytest

from geopeft_cli.data.keys import derived_seed, keyed_generator
from geopeft_cli.data.sources import splits_for
from geopeft_cli.data.splitting import stratified
from geopeft_cli.errors import UsageError


def test_every_part_gets_its_share_of_every_class():
    labels = np.repeat([0, 1, 2], [100, 10, 3])
    parts = stratified(labels, ("a", "b", "c"), {"validation": 0.1, "test": 0.25}, seed=0)
    counts = {part: np.bincount(labels[indices], minlength=3).tolist() for part, indices in parts.items()}
    assert counts == {"train": [65, 7, 1], "validation": [10, 1, 1], "test": [25, 2, 1]}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(113))


def test_training_keeps_a_cloud_when_shares_are_large():
    parts = stratified(np.zeros(3, dtype=np.int64), ("a",), {"validation": 0.49, "test": 0.5}, seed=0)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 1, "validation": 1, "test": 1}


def test_other_classes_do_not_change_the_draw_of_a_class():
    alone = stratified(np.zeros(30, dtype=np.int64), ("a",), {"test": 0.3}, seed=0)
    among = stratified(np.repeat([0, 1], [30, 7]), ("a", "b"), {"test": 0.3}, seed=0)
    np.testing.assert_array_equal(alone["test"], among["test"][among["test"] < 30])


def test_keys():
    assert derived_seed(0, "train", 1, 2) == derived_seed(np.int64(0), "train", np.int32(1), 2)
    keys = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a"), (0, "a1"), (0, "a", "1"), ("0", "a", 1)]
    assert len({derived_seed(*key) for key in keys}) == len(keys)
    first, second = (keyed_generator(0, "train", 1, 2).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_keys_are_the_same_in_every_process():
    """Words are hashed by SHA-256, not by Python's salted hash."""
    assert derived_seed(0, "train") == 331056988032128793557379411620121063009


def test_folder_of_meshes_gets_spare_points(write, tmp_path):
    for number in range(4):
        write(f"a/{number}.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    values = {"root": str(tmp_path), "split": {"by": "fraction", "test": 0.25}, "seed": 0, "on_error": "stop"}
    assert splits_for("folder", points=16, **values).train[0].points.shape == (64, 3)
    assert splits_for("folder", points_for_meshes=16, **values).train[0].points.shape == (16, 3)


def test_packed(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.zeros((6, 4, 3), np.float32), label=np.zeros(6, np.int64))
    splits = splits_for("packed", path=str(tmp_path / "a.npz"), split={"by": "fraction", "test": 0.5}, seed=0)
    assert (len(splits.train), len(splits.test)) == (3, 3)


def test_unknown_format():
    with pytest.raises(UsageError, match=r"data\.format: unknown 'modelnet'"):
        splits_for("modelnet")
