"""Class folders, part folders and list files: what is found, how it is divided, and how it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.folder import folder_splits
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.errors import DataError, UsageError

FRACTION = {"by": "fraction", "validation": 0.2, "test": 0.2}
FOLDER = {"by": "folder", "train": "train", "validation": None, "test": "test"}
LIST = {"by": "list", "train": "train.lst", "validation": None, "test": "test.lst"}
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def row(number: int) -> str:
    return f"{number} 0 0\n{number} 1 0\n"


@pytest.fixture
def classes_of_ten(write, tmp_path):
    for label in ("chair", "table", "Bed"):
        for number in range(10):
            write(f"{label}/{number}.xyz", row(number))
    return tmp_path


def split(root, how, **options):
    return folder_splits(root, how, points_for_meshes=64, seed=1, **options)


def names(clouds):
    return [clouds[index].name for index in range(len(clouds))]


def test_fractions_are_stratified_and_disjoint(classes_of_ten):
    splits = split(classes_of_ten, FRACTION)
    parts = [splits.train, splits.validation, splits.test]
    assert [np.bincount(part.labels()).tolist() for part in parts] == [[6] * 3, [2] * 3, [2] * 3]
    assert {part.classes for part in parts} == {("Bed", "chair", "table")}
    together = [name for part in parts for name in names(part)]
    assert len(set(together)) == len(together) == 30


def test_a_cloud_is_what_its_file_says(classes_of_ten):
    splits = split(classes_of_ten, FRACTION)
    for index, label in enumerate(splits.test.labels()):
        cloud = splits.test[index]
        folder, file = cloud.name.split("/")
        assert splits.test.classes[cloud.label] == folder
        assert cloud.label == label
        assert cloud.points[0, 0] == int(file.removesuffix(".xyz"))


def test_fractions_depend_on_the_seed_alone(classes_of_ten, monkeypatch):
    wanted = names(split(classes_of_ten, FRACTION).test)
    listing = Path.iterdir
    for backwards in (True, False):
        monkeypatch.setattr(Path, "iterdir", lambda path, b=backwards: iter(sorted(listing(path), reverse=b)))
        assert names(split(classes_of_ten, FRACTION).test) == wanted
    assert names(folder_splits(classes_of_ten, FRACTION, 64, seed=2).test) != wanted


def test_without_a_share_there_is_no_validation(classes_of_ten):
    assert split(classes_of_ten, {"by": "fraction", "test": 0.2}).validation is None


@pytest.mark.parametrize("layout", ["{part}/{label}/{file}", "{label}/{part}/{file}"])
def test_part_folders_in_both_orders(write, tmp_path, layout):
    for part, label, file in [
        ("train", "a", "0.xyz"),
        ("train", "b", "1.xyz"),
        ("val", "b", "2.XYZ"),
        ("test", "a", "3.xyz"),
        ("test", "b", "4.xyz"),
    ]:
        write(layout.format(part=part, label=label, file=file), row(0))
    splits = split(tmp_path, FOLDER | {"validation": "val"})
    assert names(splits.train) == [
        layout.format(part="train", label=x, file=f) for x, f in (("a", "0.xyz"), ("b", "1.xyz"))
    ]
    assert splits.validation.labels().tolist() == [1]
    assert splits.test.labels().tolist() == [0, 1]
    assert split(tmp_path, FOLDER | {"test": "val"}).test.classes == ("a", "b")


def test_lists(write, tmp_path):
    for name in ("a/0.xyz", "a/1.xyz", "b/0.xyz", "loose.xyz", "a b/my file.xyz"):
        write(name, row(0))
    write("train.lst", "# comment\na/0.xyz\n\nb/0.xyz\nloose.xyz b\na b/my file.xyz\n")
    write("test.lst", "a/1.xyz b\r\n")
    splits = split(tmp_path, LIST)
    assert names(splits.train) == ["a/0.xyz", "b/0.xyz", "loose.xyz", "a b/my file.xyz"]
    assert splits.train.classes == splits.test.classes == ("a", "a b", "b")
    assert splits.train.labels().tolist() == [0, 2, 2, 1]
    assert splits.test.labels().tolist() == [2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a/0.xyz\nb/9.xyz\n", r"test\.lst:2: no file 'b/9.xyz'"),
        ("a/0.xyz\n\nb/9.xyz b\n", r"test\.lst:3: no file 'b/9.xyz'"),
        ("loose.xyz\n", r"test\.lst:1: 'loose.xyz' has no class"),
        ("a/note.doc\n", r"test\.lst:1: 'a/note.doc' has an unknown suffix"),
        ("a/1.xyz c\n", "classes in test without a cloud to train on: c"),
        ("a/0.xyz\n", "a/0.xyz is in train and in test"),
        ("\n", r"test\.lst: lists no clouds"),
        (None, r"test\.lst: cannot be read"),
    ],
)
def test_faulty_lists(write, tmp_path, lines, message):
    for name in ("a/0.xyz", "a/1.xyz", "loose.xyz", "a/note.doc"):
        write(name, row(0))
    write("train.lst", "a/0.xyz\n" if "is in train" in message else "loose.xyz a\n")
    if lines is not None:
        write("test.lst", lines)
    with pytest.raises(DataError, match=message):
        split(tmp_path, LIST)


def test_hidden_and_unknown_files_are_counted_once(write, classes_of_ten, caplog):
    for name in ("chair/.DS_Store", "chair/a.jpg", "table/b.jpg", "table/README", ".git/x.xyz"):
        write(name, "")
    splits = split(classes_of_ten, FRACTION)
    assert len(splits.train) == 18
    assert [record.getMessage() for record in caplog.records] == [
        f"{classes_of_ten}: ignored files: 1 hidden, 2 .jpg, 1 without suffix"
    ]


@pytest.mark.parametrize(
    ("files", "how", "error", "message"),
    [
        ([], FRACTION, DataError, "has no class folders"),
        (["0.xyz"], FRACTION, DataError, "has no class folders"),
        (["a/0.xyz", "a/1.xyz", "b/note.doc"], FRACTION, DataError, "class 'b': no clouds in .*\n.*Readable are .ply"),
        (["a/train/0.xyz", "a/test/0.xyz"], FRACTION, DataError, "folders test, train; `split: {by: folder}`"),
        (["a/0.xyz", "a/1.xyz"], FRACTION, DataError, "class 'a' has 2 clouds, too few for 3 parts"),
        (["train/a/0.xyz"], FOLDER, UsageError, r"data\.split\.train: .* has neither train/<class> nor <class>/train"),
        (["train/a/0.xyz", "test/b/0.xyz"], FOLDER, DataError, "classes in test without a cloud to train on: b"),
        (["a/train/0.xyz", "a/test/1.xyz", "b/test/0.xyz"], FOLDER, DataError, "without a cloud to train on: b"),
        (["a/train/0.xyz", "a/test/1.xyz", "b/0.xyz"], FOLDER, DataError, "none of train, test in them: b"),
        (["train/a/0.xyz", "train/b/0.doc", "test/a/0.xyz"], FOLDER, DataError, "class 'b': no clouds"),
        (["t/a/0.xyz"], FOLDER | {"train": "t", "test": "t"}, DataError, "t/a/0.xyz is in train and in test"),
        (["a/0.xyz"], {"by": "field", "field": "is_test"}, UsageError, "by: field does not go with `format: folder`"),
        (["a/0.xyz"], {"by": "fraction", "test": 0.0}, UsageError, "leaves no test clouds"),
        (["a/0.xyz"], {"by": "fraction", "test": 0.6, "validation": 0.4}, UsageError, "leave nothing for training"),
    ],
)
def test_faulty_folders(write, tmp_path, files, how, error, message):
    for name in files:
        write(name, row(0))
    with pytest.raises(error, match=message):
        split(tmp_path, how)


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="none: no such folder"):
        split(tmp_path / "none", FRACTION)


def test_unreadable_clouds_stop_with_their_name(write, classes_of_ten):
    how = {"by": "fraction", "test": 0.2}
    assert "chair/3.xyz" in names(split(classes_of_ten, how).train)
    write("chair/3.xyz", "0 0 0\n1 x 0\n")
    splits = split(classes_of_ten, how)
    batches = Batches(splits.train, Preparation(2), batch_size=4, seed=0, training=False, purpose="test")
    with pytest.raises(DataError, match=r"chair/3\.xyz:2: 'x' is not a number"):
        list(batches.epoch(0))


def test_unreadable_clouds_are_skipped_beforehand(write, classes_of_ten, caplog):
    write("chair/3.xyz", "0 0 0\n1 x 0\n")
    write("Bed/0.off", "")
    splits = split(classes_of_ten, FRACTION, on_error="skip")
    everything = [name for part in (splits.train, splits.validation, splits.test) for name in names(part)]
    assert len(everything) == 29
    assert "chair/3.xyz" not in everything
    message = caplog.records[-1].getMessage()
    assert message.startswith("skipped clouds that cannot be read: 2\n")
    assert "Bed/0.off" in message
    assert "chair/3.xyz:2: 'x' is not a number" in message


@pytest.mark.parametrize(
    ("how", "files", "message"),
    [
        (FRACTION, {"a/0.xyz": row(0), "b/0.xyz": ""}, "classes without a readable cloud: b"),
        (FOLDER, {"train/a/0.xyz": row(0), "test/a/0.xyz": ""}, "no readable cloud in test"),
    ],
)
def test_skipping_must_leave_something(write, tmp_path, how, files, message):
    for name, content in files.items():
        write(name, content)
    with pytest.raises(DataError, match=message):
        split(tmp_path, how, on_error="skip")


def test_meshes_differ_in_their_draw_and_stay_the_same(write, tmp_path):
    for name in ("a/0.off", "a/1.off", "a/2.off"):
        write(name, OFF)
    first, second = (split(tmp_path, {"by": "fraction", "test": 0.3}).train for _ in range(2))
    assert first[0].points.shape == (64, 3)
    assert first[0].points.dtype == np.float64
    np.testing.assert_array_equal(first[0].points, second[0].points)
    assert not np.array_equal(first[0].points, first[1].points)
    other = folder_splits(tmp_path, {"by": "fraction", "test": 0.3}, 64, seed=5).train
    assert not np.array_equal(first[0].points, other[0].points)


def test_real_survey_objects(real_data, tmp_path):
    """Objects of an airborne scan, in list files, from their survey coordinates to batches."""
    files = sorted((real_data / "raw/dales_xyz").glob("*.xyz"))
    lines = [f"{file.name} kind{int(file.stem) // 100}" for file in files]
    (tmp_path / "train.lst").write_text("\n".join(lines[::2]))
    (tmp_path / "test.lst").write_text("\n".join(lines[1::2]))
    how = {"by": "list", "train": str(tmp_path / "train.lst"), "test": str(tmp_path / "test.lst")}
    splits = split(real_data / "raw/dales_xyz", how)
    assert splits.train.classes == tuple(f"kind{k}" for k in range(5))
    batches = Batches(splits.test, Preparation(256, "center"), batch_size=8, seed=0, training=False, purpose="test")
    for batch in batches.epoch(0):
        for index, points in zip(batch.indices, batch.points, strict=True):
            file = splits.test[int(index)]
            exact = file.points - file.points.mean(axis=0)
            distance = np.abs(points.numpy()[:, None] - exact[None]).max(axis=2).min(axis=1)
            assert distance.max() < 1e-5
