"""Metrics of points: cases by hand, and sums written out point by point."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geopeft_cli.tasks.part_metrics import (
    confusion_matrix,
    part_scores,
    point_scores,
    restricted_argmax,
    shape_ious,
)

PARTS = ((0, 1, 2), (3, 4), (5,))
NAMES = ("airplane", "bag", "cap")


def one(predicted, labels, category):
    ious = shape_ious(torch.tensor([predicted]), torch.tensor([labels]), torch.tensor([category]), PARTS)
    return float(ious[0])


def test_parts_of_other_categories_are_never_predicted():
    scores = torch.zeros(2, 2, 6)
    scores[:, :, 5] = 9.0
    scores[0, 0, 2] = scores[0, 1, 1] = scores[1, 0, 4] = 1.0
    assert restricted_argmax(scores, torch.tensor([0, 1]), PARTS).tolist() == [[2, 1], [4, 3]]


def test_log_probabilities_of_minus_infinity_do_not_let_other_parts_in():
    scores = torch.full((1, 1, 6), -1e30)
    scores[0, 0, 0] = 0.0
    assert restricted_argmax(scores, torch.tensor([1]), PARTS).tolist() == [[3]]


@pytest.mark.parametrize(
    ("predicted", "labels", "category", "wanted"),
    [
        ([0, 1, 2, 2], [0, 1, 2, 2], 0, 1.0),
        ([0, 0, 1, 1], [0, 1, 1, 1], 0, (1 / 2 + 2 / 3 + 1) / 3),  # part 2 is in neither
        ([0, 0, 0, 2], [0, 0, 0, 0], 0, (3 / 4 + 1 + 0) / 3),  # part 2 is only predicted
        ([3, 3], [3, 4], 1, (1 / 2 + 0) / 2),  # part 4 is missed
        ([3, 3], [4, 4], 1, 0.0),
        ([5, 5], [5, 5], 2, 1.0),
        ([3, 4, 4], [3, -1, 4], 1, 1.0),  # an ignored point is in no union
        ([3, 4], [3, -1], 1, 1.0),
    ],
)
def test_shapes_by_hand(predicted, labels, category, wanted):
    assert one(predicted, labels, category) == pytest.approx(wanted)


def test_a_shape_without_a_point_that_counts_is_left_out_of_the_means():
    assert math.isnan(one([3, 4], [-1, -1], 1))
    scores = part_scores(torch.tensor([0.5, math.nan, 0.7]), torch.tensor([0, 1, 0]), NAMES)
    assert scores.instance_miou == pytest.approx(60.0)
    assert scores.shapes == {"airplane": 2}
    with pytest.raises(ValueError, match="no shape"):
        part_scores(torch.tensor([math.nan]), torch.tensor([0]), NAMES)


def test_the_two_means_differ_where_categories_differ_in_size():
    ious = torch.tensor([1.0, 0.8, 0.6, 0.2], dtype=torch.float64)
    scores = part_scores(ious, torch.tensor([0, 0, 0, 2]), NAMES)
    assert scores.categories == pytest.approx({"airplane": 80.0, "cap": 20.0})
    assert scores.shapes == {"airplane": 3, "cap": 1}
    assert scores.instance_miou == pytest.approx(65.0)
    assert scores.class_miou == pytest.approx(50.0)


def by_points(predicted, labels, parts):
    """One shape, with sets of places and a loop."""
    ious = []
    for part in parts:
        found = {i for i, value in enumerate(predicted) if value == part}
        true = {i for i, value in enumerate(labels) if value == part}
        ious.append(len(found & true) / len(found | true) if found | true else 1.0)
    return sum(ious) / len(ious)


def test_a_random_batch_against_a_loop_over_points():
    generator = np.random.default_rng(0)
    categories = generator.integers(3, size=30)
    labels = np.stack([generator.choice(PARTS[c], size=12) for c in categories])
    scores = torch.from_numpy(generator.normal(size=(30, 12, 6)))
    predicted = restricted_argmax(scores, torch.from_numpy(categories), PARTS)
    assert all(set(own.tolist()) <= set(PARTS[c]) for own, c in zip(predicted, categories, strict=True))
    ious = shape_ious(predicted, torch.from_numpy(labels), torch.from_numpy(categories), PARTS)
    wanted = [by_points(p.tolist(), own, PARTS[c]) for p, own, c in zip(predicted, labels, categories, strict=True)]
    assert ious.numpy() == pytest.approx(wanted)
    scores = part_scores(ious, torch.from_numpy(categories), NAMES)
    means = [np.mean(np.array(wanted)[categories == c]) for c in range(3)]
    assert scores.instance_miou == pytest.approx(100 * np.mean(wanted))
    assert scores.class_miou == pytest.approx(100 * np.mean(means))


def test_a_confusion_matrix_counts_true_rows_and_leaves_ignored_points_out():
    predicted, labels = torch.tensor([[0, 1, 1], [2, 2, 0]]), torch.tensor([[0, 0, 1], [2, -1, 1]])
    assert confusion_matrix(predicted, labels, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_a_confusion_matrix_of_small_integers_and_many_classes(monkeypatch):
    monkeypatch.setattr("geopeft_cli.tasks.part_metrics.AT_ONCE", 2)
    predicted, labels = torch.tensor([[199, 198, 3], [199, -1, 199]], dtype=torch.int16).split(1)
    matrix = confusion_matrix(predicted, labels, 200)
    assert matrix.nonzero().tolist() == [[199, 3], [199, 199]]
    assert matrix.sum() == 2


def test_scenes_by_hand():
    scores = point_scores(torch.tensor([[3, 1], [2, 4]]), ("floor", "wall"))
    assert scores.ious == pytest.approx({"floor": 50.0, "wall": 100 * 4 / 7})
    assert scores.miou == pytest.approx((50 + 100 * 4 / 7) / 2)
    assert scores.mean_class_accuracy == pytest.approx((75 + 100 * 4 / 6) / 2)
    assert scores.accuracy == pytest.approx(70)


def test_absent_classes_count_as_zero_or_not_at_all():
    # class 1 is only predicted, class 2 is nowhere
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    zero, skipped = (point_scores(matrix, NAMES, absent) for absent in ("zero", "skip"))
    assert (zero.miou, skipped.miou) == pytest.approx((75 / 3, 75 / 2))
    assert (zero.mean_class_accuracy, skipped.mean_class_accuracy) == pytest.approx((25, 75))
    assert math.isnan(zero.ious["cap"])
    with pytest.raises(ValueError, match="no point"):
        point_scores(torch.zeros(3, 3, dtype=torch.int64), NAMES)


def test_scenes_against_sums_over_points_and_matrices_that_add_up():
    generator = np.random.default_rng(1)
    labels, predicted = generator.integers(-1, 5, size=(2, 4, 50)), generator.integers(5, size=(2, 4, 50))
    halves = [confusion_matrix(*map(torch.from_numpy, pair), 5) for pair in zip(predicted, labels, strict=True)]
    scores = point_scores(halves[0] + halves[1], [str(label) for label in range(5)])
    flat, found = labels[labels >= 0], predicted[labels >= 0]
    right = flat == found
    ious = [np.sum(right & (flat == c)) / np.sum((flat == c) | (found == c)) for c in range(5)]
    assert scores.miou == pytest.approx(100 * np.mean(ious))
    assert list(scores.ious.values()) == pytest.approx([100 * iou for iou in ious])
    assert scores.mean_class_accuracy == pytest.approx(100 * np.mean([right[flat == c].mean() for c in range(5)]))
    assert scores.accuracy == pytest.approx(100 * right.mean())
