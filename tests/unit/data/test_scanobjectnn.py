"""ScanObjectNN: all variants and both places of the folders, as published, and files that are not so."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest

from geopeft_cli.data.checks import checked_clouds
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.scanobjectnn import CLASSES, VARIANTS, scanobjectnn_splits
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError, MissingDataError, UsageError

NAMES = {
    "obj_bg": ("main_split/training_objectdataset.h5", "main_split/test_objectdataset.h5"),
    "obj_only": ("main_split_nobg/training_objectdataset.h5", "main_split_nobg/test_objectdataset.h5"),
    "hardest": (
        "main_split/training_objectdataset_augmentedrot_scale75.h5",
        "main_split/test_objectdataset_augmentedrot_scale75.h5",
    ),
}
TRAIN = np.arange(60) % 15
TEST = np.arange(30)[::-1] % 15


def clouds(count, seed, points=8):
    return (3 + np.random.default_rng(seed).normal(size=(count, points, 3))).astype(np.float32)


def write(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array


@pytest.fixture(params=["", "h5_files"])
def root(request, tmp_path):
    """All variants, each with clouds of its own, below the root or one folder deeper."""
    for seed, (train, test) in enumerate(NAMES.values()):
        write(tmp_path / request.param / train, data=clouds(60, seed), label=TRAIN)
        write(tmp_path / request.param / test, data=clouds(30, seed + 10), label=TEST)
    return tmp_path


@pytest.fixture
def hardest(tmp_path):
    """``hardest(data=..., label=...)`` writes that variant with another training file, and returns the root."""

    def writer(**arrays):
        train, test = NAMES["hardest"]
        write(tmp_path / train, **{"data": clouds(60, 0), "label": TRAIN} | arrays)
        write(tmp_path / test, data=clouds(30, 1), label=TEST)
        return tmp_path

    return writer


def everything(part):
    return np.stack([part[index].points for index in range(len(part))])


@pytest.mark.parametrize(("seed", "variant"), list(enumerate(NAMES)))
def test_a_variant_is_its_own_files_in_their_order_untouched(root, seed, variant):
    splits = scanobjectnn_splits(root, variant, 0.0, seed=0)
    assert splits.validation is None
    np.testing.assert_array_equal(everything(splits.train), clouds(60, seed))
    np.testing.assert_array_equal(everything(splits.test), clouds(30, seed + 10))
    assert splits.train.labels().tolist() == TRAIN.tolist()
    assert [splits.test[index].label for index in range(30)] == TEST.tolist()
    assert splits.test[3].points.dtype == np.float32
    assert splits.test[3].name == NAMES[variant][1].rpartition("/")[2] + "[3]"
    kept = Preparation(8, "none").normalized(splits.test[3])
    np.testing.assert_array_equal(kept, clouds(30, seed + 10)[3])


def test_classes_are_in_the_published_order(root):
    names = "bag bin box cabinet chair desk display door shelf table bed pillow sink sofa toilet"
    assert tuple(names.split()) == CLASSES == scanobjectnn_splits(root, "hardest", 0.0, seed=0).train.classes


def test_by_the_name_of_the_format(root):
    splits = splits_for("scanobjectnn", root=str(root), variant="obj_only", validation=0.25, seed=1)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (45, 15, 30)


def test_validation_is_taken_from_training_by_class(root):
    splits = scanobjectnn_splits(root, "obj_bg", 0.5, seed=0)
    assert np.bincount(splits.validation.labels()).tolist() == [2] * 15
    assert np.bincount(splits.train.labels()).tolist() == [2] * 15
    drawn = np.concatenate([everything(splits.train), everything(splits.validation)])[:, 0, 0]
    assert sorted(drawn) == sorted(clouds(60, 0)[:, 0, 0])
    other = scanobjectnn_splits(root, "obj_bg", 0.5, seed=1)
    assert everything(other.validation).tolist() != everything(splits.validation).tolist()
    assert everything(other.test).tolist() == everything(splits.test).tolist()


def test_another_number_of_clouds_than_published_is_said(root, caplog, monkeypatch):
    scanobjectnn_splits(root, "hardest", 0.0, seed=0)
    first, second = (record.getMessage() for record in caplog.records)
    assert "training_objectdataset_augmentedrot_scale75.h5 has 60 clouds, the published set 11416" in first
    assert "has 30 clouds, the published set 2882" in second
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    caplog.clear()
    monkeypatch.setitem(VARIANTS, "hardest", VARIANTS["hardest"]._replace(train=60, test=30))
    scanobjectnn_splits(root, "hardest", 0.0, seed=0)
    assert not caplog.records


def test_counts_of_the_literature():
    assert {name: (variant.train, variant.test) for name, variant in VARIANTS.items()} == {
        "obj_bg": (2309, 581),
        "obj_only": (2309, 581),
        "hardest": (11416, 2882),
    }


def with_nan():
    points = clouds(60, 0)
    points[7, 2, 1] = np.nan
    return points


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": None}, "has no array 'data', only label"),
        ({"label": None}, "has no array 'label', only data"),
        ({"data": None, "label": None}, "has no array 'data', only nothing"),
        ({"data": None, "data/inner": clouds(60, 0)}, "has no array 'data', only data, label"),
        ({"data": clouds(60, 0)[..., :2]}, r"the clouds are float32 \(60, 8, 2\), not floats \(clouds, n, 3\)"),
        ({"data": clouds(60, 0).reshape(60, 24)}, r"the clouds are float32 \(60, 24\)"),
        ({"data": clouds(60, 0).astype(int)}, r"the clouds are int64 \(60, 8, 3\)"),
        ({"data": clouds(0, 0), "label": TRAIN[:0]}, r"the clouds are float32 \(0, 8, 3\)"),
        ({"data": clouds(59, 0)}, r"the labels are int64 \(60,\) for 59 clouds, not integers \(clouds,\)"),
        ({"label": TRAIN[:, None]}, r"the labels are int64 \(60, 1\) for 60 clouds"),
        ({"label": np.array([b"bag"] * 60)}, r"the labels are \|S3"),
        ({"label": np.where(np.arange(60) == 13, 15, TRAIN)}, r"cloud 13 has the label 15, not one of 0\.\.14"),
        ({"label": np.where(np.arange(60) == 13, -1, TRAIN)}, "cloud 13 has the label -1"),
        ({"label": np.where(np.arange(60) == 13, 0.5, TRAIN)}, "cloud 13 has the label 0.5"),
        ({"label": np.where(np.arange(60) == 13, np.nan, TRAIN)}, "cloud 13 has the label nan"),
        ({"data": with_nan()}, "cloud 7 has a coordinate that is NaN or infinite"),
        ({"label": np.zeros(60, int)}, "classes in test without a cloud to train on: bin, box, cabinet"),
    ],
)
def test_faulty_files(hardest, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        scanobjectnn_splits(hardest(**arrays), "hardest", 0.0, seed=0)
    if "classes in test" not in message:
        assert "training_objectdataset_augmentedrot_scale75.h5: " in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_labels_of_any_type_and_clouds_in_double(hardest, dtype):
    root = hardest(data=clouds(60, 0).astype(np.float64), label=TRAIN.astype(dtype))
    train = scanobjectnn_splits(root, "hardest", 0.0, seed=0).train
    assert train.labels().dtype == np.int64
    assert train.labels().tolist() == TRAIN.tolist()
    assert train[0].points.dtype == np.float32


def test_names_given_to_checked_clouds(tmp_path):
    made = checked_clouds(tmp_path / "a.h5", clouds(2, 0), np.array([0, 1]), ("x", "y"), ("one", "two"))
    assert made[1].name == "two"


@pytest.mark.parametrize("damage", ["cut off", "text"])
def test_damaged_files(hardest, damage):
    root = hardest()
    path = root / NAMES["hardest"][1]
    path.write_bytes(path.read_bytes()[:1500] if damage == "cut off" else b"hello")
    with pytest.raises(DataError, match=r"test_objectdataset_augmentedrot_scale75\.h5: cannot be read"):
        scanobjectnn_splits(root, "hardest", 0.0, seed=0)


def test_what_is_missing_is_said_with_where_it_is_expected_and_obtained(hardest):
    root = hardest()
    with pytest.raises(MissingDataError, match=r"has no main_split_nobg/training_objectdataset\.h5") as caught:
        scanobjectnn_splits(root, "obj_only", 0.0, seed=0)
    hint = caught.value.hint
    for place in ("", "h5_files/"):
        assert f"{root}/{place}main_split_nobg/training_objectdataset.h5" in hint
    assert "agreement" in hint
    assert "https://hkust-vgd.github.io/scanobjectnn/" in hint
    (root / NAMES["hardest"][1]).unlink()
    with pytest.raises(MissingDataError, match=r"has no main_split/test_objectdataset_augmentedrot_scale75\.h5"):
        scanobjectnn_splits(root, "hardest", 0.0, seed=0)
    with pytest.raises(MissingDataError, match="gone: no such folder") as caught:
        scanobjectnn_splits(root / "gone", "hardest", 0.0, seed=0)
    assert caught.value.hint


def test_an_unknown_variant(tmp_path):
    with pytest.raises(UsageError, match=r"data\.variant: unknown 'hard'"):
        scanobjectnn_splits(tmp_path, "hard", 0.0, seed=0)
