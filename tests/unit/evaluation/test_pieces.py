"""Scenes are labelled by the votes of the pieces that cover them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import Cloud
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.evaluation.pieces import evaluate_clouds, voted
from geopeft_cli.tasks.segmentation import SceneSegmentation

HEIGHTS = (np.arange(6.0), np.arange(4.0))  # two scenes; the label of a point is whether it is above 2
ROWS = ((0, [0, 1, 2]), (0, [5, 3, 4]), (0, [2, 3, 5]), (1, [3, 2, 1]), (1, [0, 1, 0]))


class Pieces:
    """Five overlapping pieces of two scenes, of three points each."""

    classes, part_names = ("scene",), ("low", "high")
    parts = {"scene": (0, 1)}  # noqa: RUF012 - as the protocol has it
    scenes = ("first", "second")

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Cloud:
        scene, rows = ROWS[index]
        z = HEIGHTS[scene][rows]
        points = np.stack([np.zeros(3), np.zeros(3), z], axis=1).astype(np.float32)
        return Cloud(points, 0, f"piece {index}", (z > 2).astype(np.int8))

    def labels(self) -> npt.NDArray[np.int64]:
        return np.zeros(len(ROWS), dtype=np.int64)

    def origin(self, index: int) -> tuple[int, npt.NDArray[np.int64]]:
        scene, rows = ROWS[index]
        return scene, np.array(rows)

    def scene_labels(self, scene: int) -> npt.NDArray[Any]:
        return (HEIGHTS[scene] > 2).astype(np.int8)


class Ruler(nn.Module):
    """Calls every point above a height high."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = height
        self.task = SceneSegmentation(Pieces.classes, Pieces.part_names, Pieces.parts)

    def forward(self, points: Tensor) -> Tensor:
        above = (points[..., 2] > self.height).float()
        return torch.stack([1 - above, above], dim=-1)


def figures(height: float) -> dict[str, float]:
    pieces = Pieces()
    preparation = Preparation(3, "none")
    batches = Batches(pieces, preparation, batch_size=2, seed=0, training=False, purpose="test")
    found = evaluate_clouds(Ruler(height), pieces, batches, torch.device("cpu"))  # type: ignore[arg-type]
    assert found.targets.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    return found.metrics


def test_every_point_of_every_scene_counts_once() -> None:
    assert figures(2)["accuracy"] == 100
    assert figures(3)["accuracy"] == 80  # a point of height 3 in either scene
    assert figures(9)["accuracy"] == 60


def test_the_majority_decides_and_the_lowest_label_a_tie() -> None:
    picks = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 2, 2]])
    decisions = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1]])
    # scene 0: rows 2 and 3 and 5 of the third piece, of which the last comes twice and the middle not at all
    found, true = voted(decisions, torch.tensor([0, 1, 2]), picks, Pieces())
    assert found.tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 0, 0]
    assert true.dtype == found.dtype == torch.int16
