"""Which clouds count as the worst, and what is shown of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import Cloud, CloudSet, MemoryClouds
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.mistakes import worst_mistakes
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.tasks.segmentation import PartSegmentation, SceneSegmentation

POINTS = np.random.default_rng(0).uniform(-1, 1, (5, 8, 3)).astype(np.float32)
POINTS -= POINTS.mean(axis=1, keepdims=True)
NAMES = ["v", "w", "x", "y", "z"]


def batches(clouds: CloudSet) -> Batches:
    return Batches(clouds, Preparation(8, "center"), batch_size=2, seed=0, training=False, purpose="test")


def test_the_least_probable_truth_is_the_worst() -> None:
    clouds = MemoryClouds(POINTS, [0, 1, 2, 0, 1], ["a", "b", "c"], NAMES)
    logits = torch.log(
        torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    )
    found = Evaluation(logits, torch.tensor([0, 1, 2, 0, 1]), {})
    task = Classification(clouds.classes)
    worst = worst_mistakes(task, found, clouds, batches(clouds))
    assert [(each.name, each.note) for each in worst] == [
        ("x", "c (5.0 %), taken for a (90.0 %)"),
        ("y", "a (20.0 %), taken for b (70.0 %)"),
        ("w", "b (30.0 %), taken for a (50.0 %)"),
    ]
    assert worst[0].points == pytest.approx(POINTS[2], abs=1e-6)
    assert worst_mistakes(task, found, clouds, batches(clouds), up=2)[0].points == pytest.approx(
        POINTS[2][:, [0, 2, 1]] * (1, 1, -1), abs=1e-6
    )
    right = Evaluation(torch.eye(3)[[0, 1, 2, 0, 1]], found.targets, {})
    assert worst_mistakes(task, right, clouds, batches(clouds)) == []


def test_parts_go_by_overlap_of_the_parts_of_the_category() -> None:
    parts = {"cup": (0, 1), "bed": (2, 3)}
    true = np.array([[0] * 4 + [1] * 4, [2] * 4 + [3] * 4, [0] * 4 + [1] * 4])
    clouds = MemoryClouds(POINTS[:3], [0, 1, 0], list(parts), NAMES, true, ["a", "b", "c", "d"], parts)
    said = torch.from_numpy(true.copy())
    said[1, :2], said[2] = 3, 0
    task = PartSegmentation(clouds.classes, clouds.part_names, parts)
    found = Evaluation(said, torch.from_numpy(true), {})
    worst = worst_mistakes(task, found, clouds, batches(clouds))
    assert [(each.name, each.note) for each in worst] == [("x", "cup, mIoU 25.0 %"), ("w", "bed, mIoU 58.3 %")]
    assert worst[0].labels["truth"].tolist() == true[2].tolist()
    assert worst[0].labels["prediction"].tolist() == [0] * 8


class Pieces:
    """Two rooms of 8 points, each in two pieces that hold all of it, in another order."""

    classes, part_names, parts = ("room",), ("floor", "wall"), {"room": (0, 1)}
    scenes = ("hall", "attic")
    truth = np.array([[0] * 6 + [-1] * 2, [1] * 8])

    def __len__(self) -> int:
        return 4

    def origin(self, index: int) -> tuple[int, Any]:
        return index // 2, np.arange(8) if index % 2 else np.arange(8)[::-1].copy()

    def scene_labels(self, scene: int) -> Any:
        return self.truth[scene]

    def __getitem__(self, index: int) -> Cloud:
        scene, rows = self.origin(index)
        return Cloud(POINTS[scene][rows], 0, f"piece {index} of {self.scenes[scene]}", self.truth[scene][rows])

    def labels(self) -> Any:
        return np.zeros(4, dtype=np.int64)


def test_of_a_scene_in_pieces_the_worst_piece_is_shown() -> None:
    clouds = Pieces()
    said = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, *[1, 1, 0, 1, 1, 1, 1, 1]])
    task = SceneSegmentation(clouds.classes, clouds.part_names, clouds.parts)
    found = Evaluation(said, torch.from_numpy(clouds.truth).flatten(), {})
    worst = worst_mistakes(task, found, clouds, batches(clouds), up=2)
    assert [(each.name, each.note) for each in worst] == [
        ("piece 0 of hall", "right 50.0 %"),
        ("piece 2 of attic", "right 87.5 %"),
    ]
    assert worst[0].labels["truth"].tolist() == [-1, -1, 0, 0, 0, 0, 0, 0]
    assert worst[0].labels["prediction"].tolist() == [-1, -1, 1, 1, 1, 0, 0, 0]
