"""Scenes of one's own, in files and packed: fields under any names, labels mapped, splits by scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geopeft_cli.data.packed_scenes import PackedScenes, packed_scene_splits
from geopeft_cli.data.rooms import Rooms
from geopeft_cli.data.scene_fields import Absent, LabelNames, completed, scene_of_fields
from geopeft_cli.data.scene_files import scene_file_splits
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import DataError, MissingDataError, UsageError

Write = Callable[[str, str | bytes], Path]
LABELS = LabelNames(("ground", "tree"))
ZEROS = Absent(normals="zeros")


def of(labels: LabelNames = LABELS, **fields: Any) -> Scene:
    return scene_of_fields("a", {name: np.asarray(field) for name, field in fields.items()}, labels, "a.npz")


@pytest.mark.parametrize(
    "fields",
    [
        {"x": [0, 1], "Y": [0, 1], "z": [0, 1], "R": [9, 9], "g": [8, 8], "b": [7, 7], "Classification": [1, 0]},
        {"points": [[0, 0, 0], [1, 1, 1]], "rgb": [[9, 8, 7], [9, 8, 7]], "label": [[1], [0]]},
        {"coord": [[0.0, 0, 0, 5], [1, 1, 1, 5]], "color": [[9, 8, 7], [9, 8, 7]], "segment": [1.0, 0.0]},
    ],
)
def test_usual_names(fields: dict[str, Any]) -> None:
    scene = of(**fields)
    assert scene.coordinates.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert scene.colors is not None
    assert scene.colors.tolist() == [[9, 8, 7], [9, 8, 7]]
    assert scene.labels.tolist() == [1, 0]
    assert scene.normals is None


def test_other_fields() -> None:
    points = np.eye(3)
    scene = of(xyz=points, label=[0, 1, 0], nx=[0, 0, 1], ny=[0, 1, 0], nz=[1, 0, 0], intensity=[1, 2, 3])
    assert scene.normals is not None
    assert scene.normals.tolist() == np.eye(3)[::-1].tolist()
    assert scene.strength is not None
    assert scene.strength.tolist() == [[1], [2], [3]]
    assert scene.coordinates.dtype == np.float64


def test_labels_by_value() -> None:
    names = LabelNames(("ground", "tree", "rest"), "Kind", {"ground": [2, 11], "tree": [5]}, others="rest")
    assert of(names, points=np.eye(3), kind=[11, 5, 80]).labels.tolist() == [0, 1, 2]
    ignoring = LabelNames(("ground", "tree"), "kind", {"ground": [2], "tree": [5]})
    assert of(ignoring, points=np.eye(3), kind=[2, 5, 80]).labels.tolist() == [0, 1, -1]
    unlabelled = LabelNames(("ground", "tree"), required=False)
    assert of(unlabelled, points=np.eye(3)).labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("values", "others"), [({"bush": [1]}, None), ({"tree": [1], "ground": [1]}, None), ({"tree": [1]}, "bush")]
)
def test_wrong_label_names(values: dict[str, list[int]], others: str | None) -> None:
    with pytest.raises(UsageError, match=r"data\.labels"):
        LabelNames(("ground", "tree"), None, values, others)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": [0]}, "no x, y, z, only label"),
        ({"points": [[0, 0, 0]], "colour": [1]}, "no field 'label'"),
        ({"points": [[0, 0, 0]], "label": [0, 1]}, "labels of 2 points for 1"),
        ({"points": [[0, 0, 0]], "label": [0.5]}, "not whole numbers"),
        ({"points": [[0, 0, 0]], "label": [np.nan]}, "not whole numbers"),
        ({"points": [[np.nan, 0, 0]], "label": [0]}, "none that is finite"),
        ({"x": [0, 1], "y": [0], "z": [0], "label": [0]}, "not of one length"),
    ],
)
def test_files_that_are_no_scenes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        of(**fields)
    assert caught.value.message.startswith("a.npz")


def test_points_without_coordinates_are_left_out() -> None:
    scene = of(points=[[0, 0, 0], [np.nan, 0, 0], [1, 1, np.inf], [2, 2, 2]], label=[0, 1, 1, 1])
    assert scene.rows is not None
    assert scene.rows.tolist() == [0, 3]
    assert scene.labels.tolist() == [0, 1]


@pytest.mark.open3d
@pytest.mark.usefixtures("open3d_or_skip")
def test_estimated_normals_of_a_room_face_inwards() -> None:
    room = Rooms("clean", "train", 1, 0, 3000)[0]
    bare = Scene("bare", room.coordinates.astype(np.float64) + 1e6, room.labels)
    found = completed(bare, Absent())
    assert found.normals is not None
    assert room.normals is not None
    assert found.colors is not None
    assert not found.colors.any()
    shell = room.labels < 3
    cosine = (found.normals * room.normals).sum(axis=1)[shell]
    assert np.median(cosine) > 0.99
    assert (cosine > 0).mean() > 0.95


def test_what_stands_in() -> None:
    scene = of(points=np.eye(3), label=[0, 0, 0])
    both = completed(scene, ZEROS)
    assert both.colors is not None
    assert both.normals is not None
    assert not both.colors.any()
    assert not both.normals.any()
    neither = completed(scene, Absent("none", "none"))
    assert neither.colors is None
    assert neither.normals is None
    given = completed(Scene("a", np.eye(3), scene.labels, np.ones((3, 3), dtype=np.float32)), ZEROS)
    assert given.colors is not None
    assert given.colors.all()


@pytest.fixture
def root(write: Write, tmp_path: Path) -> Path:
    for number in range(4):
        write(f"train/a{number}.txt", f"x y z label\n0 0 {number} 0\n1 1 1 1\n")
    write("test/b.csv", "x,y,z,label\n0,0,0,1\n")
    write("train/.hidden.txt", "")
    write("test/notes.md", "")
    write("learn.lst", "train/a0.txt\n\ntrain/a3.txt\n")
    write("check.lst", "test/b.csv\n")
    return tmp_path


def test_split_by_folder(root: Path) -> None:
    splits = scene_file_splits(root, {"by": "folder", "train": "train", "test": "test"}, LABELS, ZEROS)
    assert splits.train.names == tuple(f"train/a{number}.txt" for number in range(4))
    assert splits.test[0].labels.tolist() == [1]
    assert splits.train[2].coordinates.tolist() == [[0, 0, 2], [1, 1, 1]]
    assert splits.validation is None


def test_split_by_list(root: Path) -> None:
    split = {"by": "list", "train": "learn.lst", "test": "check.lst"}
    splits = scene_file_splits(root, split, LABELS, ZEROS)
    assert splits.train.names == ("train/a0.txt", "train/a3.txt")


def test_split_by_fraction_is_of_whole_scenes(root: Path) -> None:
    def names(seed: int) -> list[tuple[str, ...]]:
        split = {"by": "fraction", "validation": 0.2, "test": 0.4}
        parts = scene_file_splits(root, split, LABELS, ZEROS, seed=seed)
        assert parts.validation is not None
        return [parts.train.names, parts.validation.names, parts.test.names]

    assert [len(part) for part in names(0)] == [2, 1, 2]
    assert len({name for part in names(0) for name in part}) == 5
    assert names(0) == names(0)
    assert any(names(0) != names(seed) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        ({"by": "folder", "train": "train", "test": "train"}, DataError, "both in train and in test"),
        ({"by": "folder", "train": "train", "test": "absent"}, MissingDataError, "no such folder"),
        ({"by": "folder", "train": "train"}, UsageError, "no test part"),
        ({"by": "list", "train": "learn.lst", "test": "absent.lst"}, MissingDataError, "no such list"),
        ({"by": "luck"}, UsageError, "data.split.by"),
    ],
)
def test_wrong_splits(root: Path, split: dict[str, Any], error: type[DataError], message: str) -> None:
    with pytest.raises(error, match=message):
        scene_file_splits(root, split, LABELS, ZEROS)


def test_wrong_lists_and_labels_are_named(root: Path, write: Write) -> None:
    write("wrong.lst", "train/a0.txt\ntrain/a9.txt\n")
    with pytest.raises(DataError, match=r"wrong\.lst:2"):
        scene_file_splits(root, {"by": "list", "train": "wrong.lst", "test": "check.lst"}, LABELS)
    splits = scene_file_splits(root, {"by": "folder", "train": "train", "test": "test"}, LabelNames(("one",)), ZEROS)
    with pytest.raises(DataError, match=r"a0\.txt: point 1 has the label 1"):
        splits.train[0]
    with pytest.raises(MissingDataError, match="no such folder"):
        scene_file_splits(root / "absent", {"by": "folder"}, LABELS)


@pytest.fixture
def arrays() -> dict[str, Any]:
    return {
        "points": np.arange(18.0).reshape(6, 3),
        "offset": np.array([0, 2, 5, 6]),
        "rgb": np.full((6, 3), 200, dtype=np.uint8),
        "thing": np.array([0, 3, 0, 0, 1, 1]),
        "scene": np.array(["learn1", "learn2", "test1"]),
    }


THINGS = LabelNames(("table", "object"), "thing", {"table": [0]}, others="object")


@pytest.mark.parametrize("leading", [True, False])
def test_packed_scenes(arrays: dict[str, Any], tmp_path: Path, leading: bool) -> None:
    arrays["offset"] = arrays["offset"] if leading else arrays["offset"][1:]
    np.savez(tmp_path / "a.npz", **arrays)
    splits = packed_scene_splits(tmp_path / "a.npz", {"by": "name", "train": "learn", "test": "test"}, THINGS, ZEROS)
    assert splits.train.names == ("learn1", "learn2")
    assert splits.train[1].labels.tolist() == [0, 0, 1]
    assert np.array_equal(splits.train[1].coordinates, arrays["points"][2:5])
    assert splits.test[0].labels.tolist() == [1]
    assert splits.test[0].colors is not None
    assert splits.test[0].colors.tolist() == [[200, 200, 200]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": np.array([0, 2, 5])}, "does not divide 6 points into 2"),
        ({"offset": np.array([0, 2, 2, 6])}, "does not divide"),
        ({"offset": np.array([0.5])}, "offset is float64"),
        ({"scene": np.array(["a"])}, "scene has the shape"),
    ],
)
def test_wrong_packed_files(arrays: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays | change)
    with pytest.raises(DataError, match=message):
        PackedScenes(tmp_path / "a.npz", THINGS)


def test_absent_packed_files_and_prefixes(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MissingDataError):
        PackedScenes(tmp_path / "b.npz", THINGS)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match="begins with 'x'"):
        packed_scene_splits(tmp_path / "a.npz", {"by": "name", "train": "x", "test": "test"}, THINGS)


def test_real_packed_scenes(real_data: Path) -> None:
    labels = LabelNames(("table", "object"), "object", {"table": [0]}, others="object")
    split = {"by": "name", "train": "learn", "test": "test"}
    splits = packed_scene_splits(real_data / "mosd_8192.npz", split, labels, ZEROS)
    assert (len(splits.train), len(splits.test)) == (45, 65)
    scene = splits.test[64]
    assert len(scene) == 8192
    assert set(np.unique(scene.labels)) == {0, 1}
