"""The few-shot folds of ModelNet40: both spellings of the folder, names of the classes, and what is not a fold."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from geopeft_cli.data import modelnet_fewshot
from geopeft_cli.data.modelnet_fewshot import modelnet_fewshot_splits
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError, MissingDataError

SIZE = 16


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Clouds of 16 points instead of 8192."""
    monkeypatch.setattr(modelnet_fewshot, "STORED_POINTS", SIZE)


def cloud(name):
    seed = sum(map(ord, name))
    return (2 + np.random.default_rng(seed).normal(size=(SIZE, 6))).astype(np.float32)


class Running:
    """Makes a folder when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


FOLD = {"train": [0, 1, 2, 3, 4] * 10, "test": [4, 3, 2, 1, 0] * 20}
ORIGINAL = (23, 0, 39, 8, 5)


def fold(change=None):
    content = {
        part: [(cloud(f"{part}{index}"), own, ORIGINAL[own]) for index, own in enumerate(labels)]
        for part, labels in FOLD.items()
    }
    if change is not None:
        change(content)
    return content


def save_fold(root, content, folder="5way_10shot", number=3):
    path = root / folder / f"{number}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize("folder", ["5way_10shot", "5way10shot"])
def test_a_fold(tmp_path, caplog, folder):
    path = save_fold(tmp_path, fold(), folder)
    splits = splits_for("modelnet_fewshot", root=str(tmp_path), way=5, shot=10, fold=3, seed=0)
    assert splits.validation is None
    for name, part in (("train", splits.train), ("test", splits.test)):
        assert part.classes == ("night_stand", "airplane", "xbox", "chair", "bottle")
        assert part.labels().tolist() == FOLD[name]
        for index in range(len(part)):
            np.testing.assert_array_equal(part[index].points, cloud(f"{name}{index}")[:, :3])
        assert part[0].points.dtype == np.float32
        assert part[2].name == f"{path.name}[2]"
    assert not caplog.records


def test_classes_that_the_file_does_not_tell_are_numbers(tmp_path):
    def change(content):
        for part in content:
            content[part] = [
                (points, own, {0: 40, 1: None}.get(own, original)) for points, own, original in content[part]
            ]

    save_fold(tmp_path, fold(change))
    assert modelnet_fewshot_splits(tmp_path, 5, 10, 3).train.classes == ("0", "1", "xbox", "chair", "bottle")


def test_numbers_as_numpy_has_them(tmp_path):
    def change(content):
        content["train"] = [[points, np.array([own]), np.int64(original)] for points, own, original in content["train"]]

    save_fold(tmp_path, fold(change))
    assert modelnet_fewshot_splits(tmp_path, 5, 10, 3).train.labels().tolist() == FOLD["train"]


def test_another_number_of_clouds_in_a_fold_is_said(tmp_path, caplog):
    save_fold(tmp_path, fold(lambda content: content["test"].pop()))
    modelnet_fewshot_splits(tmp_path, 5, 10, 3)
    assert "3.pkl has 149 clouds, the published set 150" in caplog.text


def entry(part, index, value):
    def change(content):
        content[part][index] = value(*content[part][index])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("test"), "has no list of clouds 'test'"),
        (lambda content: content["train"].clear(), "has no list of clouds 'train'"),
        (
            entry("test", 2, lambda points, own, original: (points, own)),
            r"test cloud 2 is not \(points, label, class\)",
        ),
        (entry("test", 2, lambda points, own, original: (points, "a", 3)), "test cloud 2 has the label 'a'"),
        (entry("test", 2, lambda points, own, original: (points, 5, 3)), r"cloud 2 has the label 5, not one of 0\.\.4"),
        (entry("train", 2, lambda points, own, original: (points, -1, 3)), "cloud 2 has the label -1"),
        (
            entry("train", 2, lambda points, own, original: (points, own, 4)),
            "label 2 is both bookshelf and xbox",
        ),
        (entry("train", 2, lambda points, *_: (points, 9, 8)), "labels 3 and 9 are both chair"),
        (
            entry("train", 2, lambda points, *rest: (points[1:], *rest)),
            r"cloud 2 is float32 \(15, 6\), not floats \(16",
        ),
        (entry("train", 2, lambda points, *rest: (points * np.nan, *rest)), "cloud 2 has a coordinate that is NaN"),
        (lambda content: content.update(train=content["train"][:4]), "classes in the fold without a cloud .*: bottle"),
    ],
)
def test_faulty_folds(tmp_path, change, message):
    path = save_fold(tmp_path, fold(change))
    with pytest.raises(DataError, match=message) as caught:
        modelnet_fewshot_splits(tmp_path, 5, 10, 3)
    assert caught.value.message.startswith(f"{path}: ") or "classes in the fold" in message
    assert caught.value.hint


def test_a_fold_that_is_no_dict(tmp_path):
    save_fold(tmp_path, [fold()])
    with pytest.raises(DataError, match="has no list of clouds 'train'"):
        modelnet_fewshot_splits(tmp_path, 5, 10, 3)


def test_a_program_in_a_fold_is_not_run(tmp_path):
    save_fold(tmp_path, fold(lambda content: content["train"].append(Running(tmp_path / "made"))))
    with pytest.raises(DataError, match=r"3\.pkl wants to use \w+\.mkdir"):
        modelnet_fewshot_splits(tmp_path, 5, 10, 3)
    assert not (tmp_path / "made").exists()


def test_a_fold_that_is_missing(tmp_path):
    save_fold(tmp_path, fold())
    with pytest.raises(MissingDataError, match="has no fold 4 of 5 way, 10 shot") as caught:
        modelnet_fewshot_splits(tmp_path, 5, 10, 4)
    for folder in ("5way_10shot", "5way10shot"):
        assert f"{tmp_path}/{folder}/4.pkl" in caught.value.hint
    with pytest.raises(MissingDataError, match="gone: no such folder"):
        modelnet_fewshot_splits(tmp_path / "gone", 5, 10, 4)
