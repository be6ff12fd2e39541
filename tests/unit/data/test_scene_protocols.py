"""Learning from less, and the weights of unequal classes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from geopeft_cli.data.rooms import Rooms
from geopeft_cli.data.scene_classes import SEMANTIC_KITTI_WEIGHTS
from geopeft_cli.data.scene_pipelines import IndoorTraining
from geopeft_cli.data.scene_protocols import (
    LimitedPoints,
    class_counts,
    class_weights,
    drawn_points,
    limited_points,
    limited_scenes,
    read_limited_points,
)
from geopeft_cli.data.scenes import MemoryScenes, Scene
from geopeft_cli.errors import DataError, MissingDataError

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def scenes() -> MemoryScenes:
    labels = [np.array([0, 1, 1, -1]), np.array([1, 1, 1, 3])]
    return MemoryScenes([Scene(f"s{at}", np.zeros((4, 3)), own) for at, own in enumerate(labels)], tuple("abcd"))


def test_limited_scenes(scenes: MemoryScenes, write: Write) -> None:
    assert limited_scenes(scenes, write("1.txt", "s1\n\n")).names == ("s1",)


@pytest.mark.parametrize(("text", "message"), [("", "names no scenes"), ("s1\ns9\ns7\n", "2 scenes .* first is s9")])
def test_wrong_lists(scenes: MemoryScenes, write: Write, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        limited_scenes(scenes, write("1.txt", text))
    with pytest.raises(MissingDataError):
        limited_scenes(scenes, Path("absent.txt"))


def test_labelled_points_survive_training_samples() -> None:
    room = Rooms("clean", "train", 1, 0, 800)[0]
    chosen = drawn_points(room, 20, np.random.default_rng(0))
    few = limited_points(room, chosen)
    assert np.array_equal(np.flatnonzero(few.labels != -1), chosen)
    assert np.array_equal(few.labels[chosen], room.labels[chosen])
    sample = IndoorTraining(grid=0.5, dropout=(0.9, 1.0))(few, np.random.default_rng(0))
    assert sample.rows is not None
    assert set(chosen.tolist()) == set(sample.rows[sample.labels != -1].tolist())


def test_sets_with_few_labelled_points(scenes: MemoryScenes) -> None:
    limited = LimitedPoints(scenes, {"s0": np.array([1]), "s1": np.array([0, 3])})
    assert limited[0].labels.tolist() == [-1, 1, -1, -1]
    assert limited[1].labels.tolist() == [1, -1, -1, 3]
    with pytest.raises(DataError, match="the first is s1"):
        LimitedPoints(scenes, {"s0": np.array([1])})
    with pytest.raises(DataError, match="does not have"):
        LimitedPoints(scenes, {"s0": np.array([4]), "s1": np.array([0])})[0]


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_labelled_points(tmp_path: Path, kind: Callable[[list[int]], object], legacy: bool) -> None:
    path = tmp_path / "points20"
    torch.save({"scene0000_00": kind([3, 1])}, path, _use_new_zipfile_serialization=not legacy)
    found = read_limited_points(path)
    assert found["scene0000_00"].tolist() == [3, 1]
    assert found["scene0000_00"].dtype == np.int64


class Running:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize("content", [{"a": Running()}, [1], {"a": np.array([0.5])}, {}])
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "points20", pickle_module=pickle)
    with pytest.raises(DataError, match="points20"):
        read_limited_points(tmp_path / "points20")
    with pytest.raises(MissingDataError):
        read_limited_points(tmp_path / "points50")


def test_class_weights(scenes: MemoryScenes) -> None:
    counts = class_counts(scenes)
    assert counts.tolist() == [1, 5, 0, 1]
    assert np.allclose(class_weights(counts), [np.log(7), np.log(7 / 5), 0, np.log(7)])
    weights = class_weights(counts, "inverse_square_root")
    assert weights[2] == 0
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(5**0.5)
    with pytest.raises(DataError, match="no point"):
        class_weights([0, 0])


def test_published_weights_are_logarithms_of_shares() -> None:
    shares = np.exp(-np.array(SEMANTIC_KITTI_WEIGHTS))
    # of all points, of which 3 % are ignored
    assert shares.sum() == pytest.approx(0.968, abs=0.001)
    ours = class_weights((1e9 * shares).astype(np.int64))
    assert np.allclose(ours, SEMANTIC_KITTI_WEIGHTS, atol=0.04)
