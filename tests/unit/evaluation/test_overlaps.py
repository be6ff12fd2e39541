"""Scores of labels and categories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geopeft_cli.contracts import Confusion
from geopeft_cli.data.clouds import MemoryClouds
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.overlaps import category_scores, label_scores
from geopeft_cli.reports.overlaps import CategoryScore, LabelScore
from geopeft_cli.tasks.segmentation import PartSegmentation


def test_labels_over_all_points_together() -> None:
    counts = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert label_scores(Confusion(("floor", "wall", "beam"), counts)) == [
        LabelScore("floor", 4, pytest.approx(50), pytest.approx(75)),
        LabelScore("wall", 6, pytest.approx(100 * 4 / 7), pytest.approx(100 * 4 / 6)),
        LabelScore("beam", 0, None, None),
    ]


def test_a_label_that_is_only_predicted_overlaps_nothing() -> None:
    assert label_scores(Confusion(("a", "b"), torch.tensor([[1, 1], [0, 0]])))[1] == LabelScore("b", 0, 0.0, None)


def test_categories_in_the_order_of_the_task() -> None:
    parts = {"cup": (0, 1), "bed": (2, 3), "car": (4,)}
    true = np.array([[2, 2, 3, 3], [0, 0, 1, 1], [0, 0, 1, 1]])
    clouds = MemoryClouds(np.zeros((3, 4, 3)), [1, 0, 0], list(parts), None, true, list("abcde"), parts)
    said = torch.tensor([[2, 2, 3, 3], [0, 0, 1, 1], [0, 0, 0, 0]])
    task = PartSegmentation(clouds.classes, clouds.part_names, parts)
    found = category_scores(task, Evaluation(said, torch.from_numpy(true), {}), clouds)
    assert list(found.items()) == [
        ("cup", CategoryScore(2, pytest.approx(62.5))),
        ("bed", CategoryScore(1, pytest.approx(100))),
    ]
