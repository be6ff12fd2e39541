"""Packed files: both layouts, both splits, and everything that can be wrong with them."""

from __future__ import annotations

import numpy as np
import pytest

from geopeft_cli.data.packed import packed_splits
from geopeft_cli.errors import DataError, MissingDataError, UsageError

FRACTION = {"by": "fraction", "validation": 0.2, "test": 0.2}
FIELD = {"by": "field", "field": "is_test", "validation": 0.0}
LABELS = np.arange(20) % 2
POINTS = np.random.default_rng(0).normal(size=(20, 8, 3)).astype(np.float32)


@pytest.fixture
def pack(tmp_path):
    """``pack(points=..., ...)`` writes a file with the defaults of this module, ``None`` leaving an array out."""

    def writer(**arrays):
        content = {"points": POINTS, "label": LABELS, "classes": np.array(["a", "b"]), "is_test": np.arange(20) < 6}
        content |= arrays
        path = tmp_path / "clouds.npz"
        np.savez(path, **{name: array for name, array in content.items() if array is not None})
        return path

    return writer


def first_coordinates(clouds):
    return [float(clouds[index].points[0, 0]) for index in range(len(clouds))]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_field_split(pack, dtype):
    points = POINTS.astype(dtype)
    splits = packed_splits(pack(points=points), FIELD, seed=0)
    assert (len(splits.train), splits.validation, len(splits.test)) == (14, None, 6)
    for index in range(6):
        cloud = splits.test[index]
        np.testing.assert_array_equal(cloud.points, points[index])
        assert cloud.points.dtype == (np.float64 if dtype is np.float64 else np.float32)
        assert cloud.label == LABELS[index]
        assert cloud.name == f"clouds.npz[{index}]"
    assert splits.train[0].name == "clouds.npz[6]"


def test_validation_is_drawn_from_the_rest_by_class(pack):
    splits = packed_splits(pack(), FIELD | {"validation": 0.3}, seed=0)
    assert np.bincount(splits.validation.labels()).tolist() == [2, 2]
    assert np.bincount(splits.train.labels()).tolist() == [5, 5]
    assert first_coordinates(splits.test) == POINTS[:6, 0, 0].tolist()
    assert not set(first_coordinates(splits.train)) & set(first_coordinates(splits.validation))


def test_fraction_split(pack):
    first, again, other = (packed_splits(pack(), FRACTION, seed) for seed in (0, 0, 1))
    assert [np.bincount(part.labels()).tolist() for part in (first.train, first.validation, first.test)] == [
        [6, 6],
        [2, 2],
        [2, 2],
    ]
    assert first_coordinates(first.test) == first_coordinates(again.test)
    assert first_coordinates(first.test) != first_coordinates(other.test)
    parts = (first.train, first.validation, first.test)
    assert sorted(x for part in parts for x in first_coordinates(part)) == sorted(POINTS[:, 0, 0].tolist())


@pytest.mark.parametrize("boundaries", [True, False])
def test_clouds_of_different_sizes(pack, boundaries):
    ends = np.cumsum(np.arange(1, 21))
    points = np.random.default_rng(1).normal(size=(ends[-1], 3)).astype(np.float32)
    offset = np.concatenate([[0], ends]) if boundaries else ends
    splits = packed_splits(pack(points=points, offset=offset), FIELD, seed=0)
    for index in range(6):
        np.testing.assert_array_equal(splits.test[index].points, points[ends[index] - index - 1 : ends[index]])


def test_labels_name_themselves_without_classes(pack):
    assert packed_splits(pack(classes=None), FIELD, seed=0).train.classes == ("0", "1")


def test_nan_points_are_dropped(pack):
    points = POINTS.copy()
    points[0, 2, 1] = np.nan
    points[0, 5] = np.inf
    cloud = packed_splits(pack(points=points), FIELD, seed=0).test[0]
    np.testing.assert_array_equal(cloud.points, points[0, [0, 1, 3, 4, 6, 7]])


def with_nan_cloud():
    points = POINTS.copy()
    points[7, :, 0] = np.nan
    return points


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"points": None}, "no array 'points', only label, classes, is_test"),
        ({"label": None}, "no array 'label'"),
        ({"points": POINTS[:, :, :2]}, r"points has the shape \(20, 8, 2\) for 20 labels"),
        ({"points": POINTS[:19]}, r"points has the shape \(19, 8, 3\) for 20 labels"),
        ({"points": POINTS.reshape(-1, 3)}, "no array 'offset'"),
        (
            {"points": POINTS.reshape(-1, 3), "offset": np.arange(20)},
            "offset does not divide 160 points into 20 clouds",
        ),
        ({"points": POINTS.reshape(-1, 3), "offset": np.full(20, 160)}, r"cloud 1 has no points"),
        ({"points": POINTS.reshape(-1, 3), "offset": np.r_[0, 16, 8, 24:161:8]}, "offset does not divide"),
        ({"points": POINTS.reshape(-1, 3), "offset": np.arange(1.0, 21)}, "offset is of type float64"),
        ({"points": np.zeros((20, 8, 3), dtype=int)}, "points is of type int64"),
        ({"label": LABELS.astype(float)}, "label is of type float64"),
        ({"label": LABELS[:, None]}, r"label has the shape \(20, 1\)"),
        ({"label": np.where(np.arange(20) == 13, 2, LABELS)}, r"cloud 13 has the label 2, not in 0\.\.1"),
        ({"label": np.where(np.arange(20) == 13, -1, LABELS)}, r"cloud 13 has the label -1"),
        ({"points": with_nan_cloud()}, "cloud 7 has 8 points, all of them NaN"),
        ({"is_test": np.arange(20) % 2}, "is_test is int64"),
        ({"is_test": np.arange(19) < 5}, r"is_test is bool \(19,\), not bool \(20,\)"),
        ({"is_test": np.zeros(20, dtype=bool)}, "is_test marks 0 of 20"),
        ({"is_test": np.ones(20, dtype=bool)}, "is_test marks 20 of 20"),
        ({"is_test": LABELS == 1}, "classes in test without a cloud to train on: b"),
        ({"classes": np.array(["a", "b"], dtype=object)}, "cannot be read"),
    ],
)
def test_faulty_files(pack, arrays, message):
    path = pack(**arrays)
    with pytest.raises(DataError, match=message) as caught:
        packed_splits(path, FIELD, seed=0)
    if "classes in test" not in message:
        assert "clouds.npz" in caught.value.message
    assert caught.value.hint


def test_files_cut_off_or_of_another_kind(pack, tmp_path):
    path = pack()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"clouds\.npz: cannot be read"):
        packed_splits(path, FIELD, seed=0)
    np.save(tmp_path / "single.npy", POINTS)
    with pytest.raises(DataError, match="is a single array"):
        packed_splits(tmp_path / "single.npy", FIELD, seed=0)
    with pytest.raises(MissingDataError, match="no such file"):
        packed_splits(tmp_path / "none.npz", FIELD, seed=0)


def test_splits_that_do_not_fit(pack):
    with pytest.raises(UsageError, match="by: list does not go with `format: packed`"):
        packed_splits(pack(), {"by": "list"}, seed=0)
    with pytest.raises(UsageError, match="has no array 'held_out'"):
        packed_splits(pack(), FIELD | {"field": "held_out"}, seed=0)


def test_real_packed_files(real_data):
    shrec = packed_splits(real_data / "shrec07_2048.npz", FIELD | {"validation": 0.1}, seed=0)
    assert (len(shrec.train), len(shrec.validation), len(shrec.test)) == (260, 20, 120)
    assert len(shrec.train.classes) == 20
    assert set(np.bincount(shrec.validation.labels())) == {1}
    dales = packed_splits(real_data / "dales500_1024_metres.npz", {"by": "fraction", "test": 0.3}, seed=0)
    assert dales.train.classes == ("building", "car", "fence", "pole", "tree")
    assert len(dales.train) + len(dales.test) == 499
    assert np.isfinite(dales.test[0].points).all()
