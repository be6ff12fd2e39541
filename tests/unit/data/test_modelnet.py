"""ModelNet40 and 10 from the released cache and from text files, and our own cache."""

from __future__ import annotations

import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from geopeft_cli.data import modelnet, thinning
from geopeft_cli.data.modelnet import CLASSES, modelnet_splits
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError, MissingDataError
from geopeft_cli.geometry.sampling import farthest_point_sample

SIZE = 16
IDS = {
    "train": ["night_stand_0003", "airplane_0001", "night_stand_0001", "xbox_0001", "airplane_0002", "xbox_0002"],
    "test": ["xbox_0104", "airplane_0627"],
}
TEN = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Clouds of 16 points instead of 8192, and a cache folder of the test's own."""
    monkeypatch.setattr(modelnet, "STORED_POINTS", SIZE)
    monkeypatch.setenv("GEOPEFT_CACHE", str(tmp_path / "cache"))


def cloud(name, points=SIZE):
    seed = sum(map(ord, name))
    return (2 + np.random.default_rng(seed).normal(size=(points, 6))).astype(np.float32)


def label(name):
    return CLASSES.index(name.rpartition("_")[0])


def save_lists(root, stem="modelnet40", classes=CLASSES, ids=IDS):
    root.mkdir(exist_ok=True)
    (root / f"{stem}_shape_names.txt").write_text("".join(f"{name}\n" for name in classes))
    for part, names in ids.items():
        (root / f"{stem}_{part}.txt").write_text("\n".join(names) + "\n\n")


def save_released(root, part, clouds=None, labels=None, size=SIZE):
    ids = IDS[part]
    clouds = [cloud(name) for name in ids] if clouds is None else clouds
    labels = [np.array([label(name)], dtype=np.int32) for name in ids] if labels is None else labels
    path = root / f"modelnet40_{part}_{size}pts_fps.dat"
    path.write_bytes(pickle.dumps([clouds, labels]))
    return path


def save_text(root, name, points=SIZE + 9):
    path = root / name.rpartition("_")[0] / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    np.savetxt(path, cloud(name, points), fmt="%.6f", delimiter=",")
    return path


@pytest.fixture
def released(tmp_path):
    """The set as the released code leaves it: lists and both caches, no text files."""
    root = tmp_path / "modelnet40_normal_resampled"
    save_lists(root)
    for part in IDS:
        save_released(root, part)
    return root


@pytest.fixture
def texts(tmp_path):
    """The set as it is published: lists and text files."""
    root = tmp_path / "modelnet40_normal_resampled"
    save_lists(root)
    for names in IDS.values():
        for name in names:
            save_text(root, name)
    return root


def everything(part):
    return np.stack([part[index].points for index in range(len(part))])


def read(root, **values):
    return modelnet_splits(root, **({"classes": 40, "validation": 0.0, "seed": 0} | values))


def test_classes_of_modelnet40():
    assert len(CLASSES) == 40
    assert list(CLASSES) == sorted(CLASSES)
    assert (CLASSES[0], CLASSES[23], CLASSES[39]) == ("airplane", "night_stand", "xbox")
    assert modelnet.PUBLISHED == {(40, "train"): 9843, (40, "test"): 2468, (10, "train"): 3991, (10, "test"): 908}


def test_the_released_cache_in_the_order_of_the_lists(released):
    splits = read(released)
    assert splits.validation is None
    for part, ids in ((splits.train, IDS["train"]), (splits.test, IDS["test"])):
        assert part.classes == CLASSES
        assert part.labels().tolist() == [label(name) for name in ids]
        for index, name in enumerate(ids):
            assert part[index].name == name
            assert part[index].label == label(name)
            assert part[index].points.dtype == np.float32
            np.testing.assert_array_equal(part[index].points, cloud(name)[:, :3])
    assert not list(released.glob("*.npz"))


def test_coordinates_are_normalized_by_the_preparation(released):
    prepared = Preparation(SIZE, "unit_sphere").normalized(read(released).test[0])
    np.testing.assert_allclose(prepared.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(prepared, axis=1).max() == pytest.approx(1, abs=1e-6)


def test_by_the_name_of_the_format(released, tmp_path):
    splits = splits_for("modelnet40", root=str(released), validation=0.5, seed=1)
    assert Counter(splits.validation.labels().tolist()) == {0: 1, 23: 1, 39: 1}
    names = {part[i].name for part in (splits.train, splits.validation) for i in range(len(part))}
    assert names == set(IDS["train"])
    ten = tmp_path / "ten"
    ids = {"train": ["bed_0001", "sofa_0002"], "test": ["sofa_0700"]}
    save_lists(ten, "modelnet10", TEN, ids)
    for name in (*ids["train"], *ids["test"]):
        save_text(ten, name)
    splits = splits_for("modelnet10", root=str(ten), validation=0.0, seed=0)
    assert splits.train.classes == TEN
    assert (splits.train.labels().tolist(), splits.test.labels().tolist()) == ([1, 7], [7])


def test_text_files_are_thinned_from_the_first_point_on(texts):
    splits = read(texts)
    for part, ids in ((splits.train, IDS["train"]), (splits.test, IDS["test"])):
        for index, name in enumerate(ids):
            whole = np.round(cloud(name, SIZE + 9)[:, :3].astype(np.float64), 6).astype(np.float32)
            picks = farthest_point_sample(torch.from_numpy(whole)[None], SIZE, "keep")[0].numpy()
            np.testing.assert_array_equal(part[index].points, whole[picks])
            np.testing.assert_array_equal(part[index].points[0], whole[0])


def test_points_near_the_origin_are_thinned_like_others(texts):
    path = texts / "xbox/xbox_0104.txt"
    path.write_text("".join(f"{x / 1000},0,0,0,0,1\n" for x in range(SIZE)))
    assert sorted(read(texts).test[0].points[:, 0]) == pytest.approx(np.arange(SIZE) / 1000)


@pytest.fixture
def thinned_files(monkeypatch):
    """Names of the text files that were thinned."""
    names = []
    thin = thinning._thin

    def counted(path, size):
        names.append(path.stem)
        return thin(path, size)

    monkeypatch.setattr(thinning, "_thin", counted)
    return names


def test_our_cache_is_written_used_and_made_anew_when_a_file_changes(texts, thinned_files, caplog):
    first = read(texts)
    assert sorted(thinned_files) == sorted([*IDS["train"], *IDS["test"]])
    with np.load(texts / "modelnet40_train_16pts_geopeft.npz") as kept:
        assert set(kept.files) == {"points", "label", "ids", "fingerprint"}
        assert (kept["points"].shape, kept["points"].dtype) == ((6, SIZE, 3), np.float32)
        assert kept["label"].tolist() == [label(name) for name in IDS["train"]]
        assert kept["ids"].tolist() == IDS["train"]
    thinned_files.clear()
    again = read(texts)
    assert thinned_files == []
    np.testing.assert_array_equal(everything(again.train), everything(first.train))
    changed = save_text(texts, "xbox_0104", SIZE + 5)
    assert everything(read(texts).test).tolist() != everything(first.test).tolist()
    assert sorted(thinned_files) == sorted(IDS["test"])
    thinned_files.clear()
    os.utime(changed, (1, 1))
    read(texts)
    assert sorted(thinned_files) == sorted(IDS["test"])
    thinned_files.clear()
    save_lists(texts, ids=IDS | {"test": IDS["test"][::-1]})
    assert read(texts).test[0].name == "airplane_0627"
    assert sorted(thinned_files) == sorted(IDS["test"])
    assert not any("again" in record.getMessage() or "anew" in record.getMessage() for record in caplog.records)
    assert not (texts.parent / "cache").exists()


@pytest.mark.parametrize("content", [b"damaged", None, "shape", "array"])
def test_a_cache_of_ours_that_is_damaged_is_made_anew(texts, thinned_files, caplog, content):
    first = everything(read(texts).train)
    path = texts / "modelnet40_train_16pts_geopeft.npz"
    with np.load(path) as kept:
        arrays = dict(kept)
    if content == "shape":
        np.savez(path, **arrays | {"points": arrays["points"][:3]})
    elif content == "array":
        with path.open("wb") as file:
            np.save(file, arrays["points"])
    else:
        path.write_bytes(path.read_bytes()[:700] if content is None else content)
    thinned_files.clear()
    np.testing.assert_array_equal(everything(read(texts).train), first)
    assert sorted(thinned_files) == sorted(IDS["train"])
    told = any("modelnet40_train_16pts_geopeft.npz: cannot be read" in r.getMessage() for r in caplog.records)
    assert told == (content in (b"damaged", None))
    thinned_files.clear()
    read(texts)
    assert thinned_files == []


def test_the_users_cache_folder_where_the_root_cannot_be_written(texts, tmp_path, thinned_files):
    for part in IDS:
        (texts / f"modelnet40_{part}_16pts_geopeft.npz").mkdir()
    first = read(texts)
    assert len(list((tmp_path / "cache").glob("modelnet40_*_16pts_*.npz"))) == 2
    thinned_files.clear()
    np.testing.assert_array_equal(everything(read(texts).test), everything(first.test))
    assert thinned_files == []


def test_no_place_for_a_cache_is_said(texts, tmp_path, thinned_files, caplog):
    for part in IDS:
        (texts / f"modelnet40_{part}_16pts_geopeft.npz").mkdir()
    (tmp_path / "cache").write_text("a file")
    read(texts)
    told = [record.getMessage() for record in caplog.records if "again next time" in record.getMessage()]
    assert len(told) == 2
    assert str(tmp_path / "cache") in told[0]


def test_another_number_of_clouds_than_published_is_said(released, caplog, monkeypatch):
    read(released)
    told = [record.getMessage() for record in caplog.records]
    assert "modelnet40_train.txt has 6 clouds, the published set 9843" in told[0]
    assert "modelnet40_test.txt has 2 clouds, the published set 2468" in told[1]
    caplog.clear()
    monkeypatch.setattr(modelnet, "PUBLISHED", {(40, "train"): 6, (40, "test"): 2})
    read(released)
    assert not caplog.records


def change_list(root, name, text):
    (root / f"modelnet40_{name}.txt").write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("shape_names", "airplane\nxbox\n", r"modelnet40_shape_names\.txt: 2 classes, not 40"),
        ("shape_names", "airplane\n" * 40, r"modelnet40_shape_names\.txt: 'airplane' stands there 40 times"),
        ("train", "", r"modelnet40_train\.txt: is empty"),
        ("train", b"\xff\xfe", r"modelnet40_train\.txt: cannot be read"),
        ("train", "airplane_0001\nsubmarine_0001\n", r"train\.txt: 'submarine_0001' is of none of the 40 classes"),
        ("train", "airplane\n", "'airplane' is of none of the 40 classes"),
        ("test", "xbox_0104\nxbox_0104\n", r"modelnet40_test\.txt: 'xbox_0104' stands there 2 times"),
        ("test", "xbox_0104\n", r"test_16pts_fps\.dat: 2 clouds and 2 labels, where modelnet40_test\.txt lists 1"),
        ("test", "xbox_0104\nxbox_0627\n", r"cloud 1 has the label \[0\], where modelnet40_test\.txt says xbox_0627"),
        ("test", "xbox_0001\nairplane_0627\n", r"xbox_0001 is in modelnet40_train\.txt and in modelnet40_test\.txt"),
    ],
)
def test_faulty_lists(released, name, text, message):
    change_list(released, name, text)
    with pytest.raises(DataError, match=message) as caught:
        read(released)
    assert caught.value.hint


def test_a_class_that_is_only_in_the_test_list(texts):
    change_list(texts, "test", "bowl_0070\n")
    (texts / "bowl").mkdir()
    save_text(texts, "bowl_0070")
    with pytest.raises(DataError, match="classes in test without a cloud to train on: bowl"):
        read(texts)


def one_changed(change):
    clouds = [cloud(name) for name in IDS["train"]]
    clouds[3] = change(clouds[3])
    return {"clouds": clouds}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one_changed(lambda points: points[:-1]), r"cloud 3 is float32 \(15, 6\), not floats \(16, 6\)"),
        (one_changed(lambda points: points[:, :2]), r"cloud 3 is float32 \(16, 2\)"),
        (one_changed(lambda points: points[None]), r"cloud 3 is float32 \(1, 16, 6\)"),
        (one_changed(lambda points: points.astype(int)), r"cloud 3 is int64 \(16, 6\)"),
        (one_changed(lambda points: points.tolist()), "cloud 3 is list"),
        (one_changed(lambda points: points * np.inf), "cloud 3 has a coordinate that is NaN or infinite"),
        ({"clouds": [], "labels": []}, "0 clouds and 0 labels"),
        ({"clouds": cloud("xbox_1")}, "does not hold a list of clouds and a list of labels"),
        ({"labels": [np.array([label(name), 0]) for name in IDS["train"]]}, r"cloud 0 has the label \[23  0\]"),
        ({"labels": ["night_stand"] * 6}, "cloud 0 has the label night_stand, where modelnet40_train.txt says night"),
        ({"labels": [40] * 6}, "cloud 0 has the label 40"),
    ],
)
def test_faulty_released_caches(released, content, message):
    path = save_released(released, "train", **content)
    with pytest.raises(DataError, match=message) as caught:
        read(released)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint


def test_plain_integers_as_labels(released):
    save_released(released, "train", labels=[label(name) for name in IDS["train"]])
    assert read(released).train.labels().tolist() == [label(name) for name in IDS["train"]]


class Running:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_program_in_the_released_cache_is_not_run(released, tmp_path):
    save_released(released, "train", clouds=[Running(tmp_path / "made")] * 6)
    with pytest.raises(DataError, match=r"train_16pts_fps\.dat wants to use \w+\.mkdir"):
        read(released)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps(3), pickle.dumps([[], [], []])])
def test_a_released_cache_that_is_something_else(released, content):
    (released / "modelnet40_train_16pts_fps.dat").write_bytes(content)
    with pytest.raises(DataError, match=r"modelnet40_train_16pts_fps\.dat: "):
        read(released)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n" * 15, r"xbox_0001\.txt: has 15 points, fewer than 16"),
        ("", r"xbox_0001\.txt: has 0 points"),
        ("1,2\n" * 20, r"xbox_0001\.txt:1: 2 columns where at least 3 are needed"),
        ("1,2,3\n" * 16 + "1,x,3\n", r"xbox_0001\.txt:17: 'x' is not a number"),
        ("1,2,3\n" * 16 + "1,nan,3\n", r"xbox_0001\.txt: has a coordinate that is NaN or infinite"),
        (None, r"1 of 6 listed files are missing, the first is .*xbox/xbox_0001\.txt"),
    ],
)
def test_faulty_text_files(texts, text, message):
    path = texts / "xbox/xbox_0001.txt"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(texts)
    assert caught.value.hint
    assert not list(texts.glob("*.npz"))


def test_what_is_missing_is_said_with_where_it_is_expected_and_obtained(tmp_path):
    root = tmp_path / "set"
    with pytest.raises(MissingDataError, match=f"{root}: no such folder") as caught:
        read(root)
    for word in ("modelnet40_shape_names.txt", "_fps.dat", "<class>/<name>.txt", "modelnet40_normal_resampled.zip"):
        assert word in caught.value.hint
    save_lists(root)
    with pytest.raises(MissingDataError, match=r"has neither modelnet40_train_16pts_fps\.dat nor the text files of"):
        read(root)
    (root / "modelnet40_test.txt").unlink()
    save_released(root, "train")
    with pytest.raises(MissingDataError, match=r"has no modelnet40_test\.txt"):
        read(root)
