"""ModelNet40 in the layout of ``modelnet40_ply_hdf5_2048``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from geopeft_cli.data import modelnet_hdf5
from geopeft_cli.data.clouds import CloudSet
from geopeft_cli.data.modelnet import CLASSES, modelnet_splits
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError, MissingDataError
from geopeft_cli.verbs.data_survey import survey_data

POINTS = 32
SIZES = {"train0": 50, "train1": 40, "test0": 41}
PREFIX = "data/modelnet40_ply_hdf5_2048/"


def points(name: str) -> np.ndarray:
    seed = sum(map(ord, name))
    return np.random.default_rng(seed).normal(size=(SIZES[name], POINTS, 3)).astype(np.float32)


def labels(name: str) -> np.ndarray:
    return (np.arange(SIZES[name]) % 40).astype(np.uint8)[:, None]


def save(root: Path, name: str, **arrays: np.ndarray | None) -> Path:
    path = root / f"ply_data_{name}.h5"
    extra = {"faceId": np.zeros((SIZES[name], POINTS), np.int32), "normal": points(name)}
    with h5py.File(path, "w") as file:
        for key, array in ({"data": points(name), "label": labels(name)} | extra | arrays).items():
            if array is not None:
                file[key] = array
    return path


def save_list(root: Path, part: str, *names: str, prefix: str = PREFIX) -> None:
    (root / f"{part}_files.txt").write_text("".join(f"{prefix}ply_data_{name}.h5\n" for name in names))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training files, one test file, and one that no list names."""
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    (folder / "shape_names.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    save_list(folder, "train", "train0", "train1")
    save_list(folder, "test", "test0")
    for name in SIZES:
        save(folder, name)
    (folder / "ply_data_train9.h5").write_bytes(b"of no list")
    return folder


def everything(part: CloudSet) -> np.ndarray:
    return np.stack([part[index].points for index in range(len(part))])


def read(root: Path) -> tuple[CloudSet, CloudSet]:
    splits = modelnet_splits(root, 40, 0.0, 0)
    assert splits.validation is None
    return splits.train, splits.test


def test_the_files_of_the_lists_in_their_order(root: Path) -> None:
    train, test = read(root)
    np.testing.assert_array_equal(everything(train), np.concatenate([points("train0"), points("train1")]))
    np.testing.assert_array_equal(everything(test), points("test0"))
    assert train.labels().tolist() == [*labels("train0")[:, 0], *labels("train1")[:, 0]]
    assert train.classes == test.classes == CLASSES
    assert (train[52].name, train[52].label, train[52].points.dtype) == ("ply_data_train1.h5[2]", 2, np.float32)


@pytest.mark.parametrize("prefix", ["", "./", "/old/machine/"])
def test_only_the_names_in_the_lists_count(root: Path, prefix: str) -> None:
    save_list(root, "train", "train1", "train0", prefix=prefix)
    np.testing.assert_array_equal(everything(read(root)[0])[:40], points("train1"))


def test_by_the_name_of_the_format_with_a_validation_split(root: Path) -> None:
    splits = splits_for("modelnet40", root=str(root), validation=0.5, seed=1)
    assert splits.validation is not None
    assert set(Counter(splits.validation.labels().tolist())) == set(range(40))
    assert len(splits.train) + len(splits.validation) == 90
    with pytest.raises(MissingDataError, match=r"has no modelnet10_shape_names\.txt"):
        splits_for("modelnet10", root=str(root), validation=0.0, seed=0)


def test_what_inspect_says_of_it(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: x\ndata: {{format: modelnet40, root: {root}}}\nbackbone: {{checkpoint: x}}\nmethod: {{name: full}}\n"
    )
    found = survey_data(str(recipe))
    assert {name: (part.clouds, part.points) for name, part in found.parts.items()} == {
        "train": (90, (POINTS, POINTS, POINTS)),
        "test": (41, (POINTS, POINTS, POINTS)),
    }
    assert found.parts["train"].classes["airplane"] == 3


def test_another_number_of_clouds_than_published_is_said(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(root)
    told = [record.getMessage() for record in caplog.records]
    assert "train_files.txt has 90 clouds, the published set 9840" in told[0]
    assert "test_files.txt has 41 clouds, the published set 2468" in told[1]
    caplog.clear()
    monkeypatch.setattr(modelnet_hdf5, "PUBLISHED", {"train": 90, "test": 41})
    read(root)
    assert not caplog.records


def without(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (without("test_files.txt"), MissingDataError, r"has no test_files\.txt"),
        (without("shape_names.txt"), MissingDataError, r"has no shape_names\.txt"),
        (without("ply_data_train1.h5"), MissingDataError, r"has no ply_data_train1\.h5, which train_files\.txt lists"),
        (lambda root: (root / "shape_names.txt").write_text("a\nb\n"), DataError, r"shape_names\.txt: 2 classes, not"),
        (lambda root: save_list(root, "test"), DataError, r"test_files\.txt: is empty"),
        (lambda root: save_list(root, "test", "test0", "test0"), DataError, "stands there 2 times"),
        (
            lambda root: save_list(root, "test", "test0", "train1"),
            DataError,
            r"ply_data_train1\.h5 is in train_files\.txt and in test_files\.txt",
        ),
        (lambda root: (root / "ply_data_test0.h5").write_bytes(b"x"), DataError, r"test0\.h5: cannot be read"),
        (lambda root: save(root, "train1", label=None), DataError, r"train1\.h5: has no array 'label', only data, f"),
        (
            lambda root: save(root, "train1", label=labels("train1") + 10),
            DataError,
            r"train1\.h5: cloud 30 has the label 40, not one of 0\.\.39",
        ),
        (
            lambda root: save(root, "train1", label=labels("train0")),
            DataError,
            r"train1\.h5: the labels are uint8 \(50,\) for 40 clouds",
        ),
        (
            lambda root: save(root, "train1", data=points("train1")[..., :2]),
            DataError,
            r"train1\.h5: the clouds are float32 \(40, 32, 2\)",
        ),
        (
            lambda root: save(root, "train0", data=points("train0") * np.float32(np.nan)),
            DataError,
            r"train0\.h5: cloud 0 has a coordinate that is NaN",
        ),
    ],
)
def test_faulty_sets(root: Path, change: Callable[[Path], object], kind: type[DataError], message: str) -> None:
    change(root)
    with pytest.raises(kind, match=message) as caught:
        read(root)
    assert caught.value.hint


def test_a_folder_without_any_list_is_told_of_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"has no modelnet40_shape_names\.txt") as caught:
        modelnet_splits(tmp_path, 40, 0.0, 0)
    assert "modelnet40_ply_hdf5_2048 with its lists train_files.txt" in str(caught.value.hint)
