"""Scenes in Pointcept's folders, SemanticKITTI's frames and S3DIS' rooms, written small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geopeft_cli.data import scene_classes
from geopeft_cli.data.pointcept_scenes import LAYOUTS, PointceptScenes, published_scene_splits
from geopeft_cli.data.s3dis_scenes import s3dis_scene_splits
from geopeft_cli.data.scene_fields import Absent
from geopeft_cli.data.scene_voxels import voxel_table
from geopeft_cli.data.semantic_kitti import CLASSES, TRAIN, class_indices, kitti_splits, read_frame
from geopeft_cli.errors import DataError, MissingDataError, UsageError

Write = Callable[[str, str | bytes], Path]
POINTS = 6
ZEROS = Absent(normals="zeros")


def arrays(**change: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "coord": rng.random((POINTS, 3)).astype(np.float32),
        "color": rng.integers(0, 256, (POINTS, 3)).astype(np.uint8),
        "normal": np.tile(np.array([0, 0, 1], dtype=np.float32), (POINTS, 1)),
        "instance": np.zeros(POINTS, dtype=np.int64),
    } | change


def make(root: Path, place: str, **change: Any) -> None:
    folder = root / place
    folder.mkdir(parents=True)
    for name, array in arrays(**change).items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)


LABELS = {
    "s3dis": ("segment", np.arange(POINTS, dtype=np.int16)[:, None]),
    "scannet": ("segment20", np.arange(POINTS) - 1),
    "scannet200": ("segment200", np.arange(POINTS) * 30),
    "scannetpp": ("segment", np.stack([np.arange(POINTS), np.full(POINTS, -1), np.full(POINTS, 99)], axis=1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(tmp_path: Path, name: str) -> None:
    layout, (asset, labels) = LAYOUTS[name], LABELS[name]
    for split in (*layout.train, *layout.test):
        for scene in ("office_2", "office_1"):
            make(tmp_path, f"{split}/{scene}", **{asset: labels, "color": None})
    splits = published_scene_splits(tmp_path, name, absent=ZEROS)
    assert len(splits.train) == 2 * len(layout.train)
    assert splits.validation is None
    assert splits.test.names == (
        ("Area_5-office_1", "Area_5-office_2") if name == "s3dis" else ("office_1", "office_2")
    )
    scene = splits.test[0]
    assert scene.labels.tolist() == labels.reshape(POINTS, -1)[:, 0].tolist()
    assert np.array_equal(scene.coordinates, arrays()["coord"])
    assert scene.colors is not None
    assert not scene.colors.any()
    assert scene.normals is not None
    assert scene.normals[:, 2].all()


def test_numbers_of_classes() -> None:
    assert [len(layout.classes) for layout in LAYOUTS.values()] == [13, 20, 200, 100]
    assert scene_classes.SCANNET200[0] == "wall"
    assert scene_classes.SCANNET200[98] == "bicycle"
    assert scene_classes.SCANNET200[199] == "mattress"
    assert len(set(scene_classes.SCANNET200)) == 200
    assert scene_classes.SCANNETPP[99] == "marker"


def test_other_areas_and_overlap(tmp_path: Path) -> None:
    for area in (1, 2):
        make(tmp_path, f"Area_{area}/hall_1")
    splits = published_scene_splits(tmp_path, "s3dis", ["Area_2"], ["Area_1"], ZEROS)
    assert splits.train.names == ("Area_2-hall_1",)
    assert (splits.test[0].labels == -1).all()
    with pytest.raises(UsageError, match="Area_1 both"):
        published_scene_splits(tmp_path, "s3dis", ["Area_1", "Area_2"], ["Area_1"])
    with pytest.raises(UsageError, match="no set of scenes"):
        published_scene_splits(tmp_path, "matterport")


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_lists_of_scenes(tmp_path: Path, suffix: str) -> None:
    for number in range(3):
        make(tmp_path, f"all/s{number}", strength=np.arange(POINTS), segment=np.zeros(POINTS, dtype=np.int64))
    (tmp_path / f"mine{suffix}").write_text(json.dumps(["all/s2", "all/s0"]))
    scenes = PointceptScenes(tmp_path, ["mine"], ("only",), absent=ZEROS)
    assert scenes.names == ("s2", "s0")
    strength = scenes[0].strength
    assert strength is not None
    assert strength.shape == (POINTS, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coord": None}, "no coord.npy"),
        ({"color": np.zeros((5, 3))}, "colors has the shape"),
        ({"segment": np.zeros(5, dtype=np.int64)}, "segment.npy"),
        ({"segment": np.full(POINTS, 1)}, "not in 0..0 or -1"),
        ({"coord": np.full((POINTS, 3), np.nan)}, "coordinates of point 0"),
        ({"normal": np.array(["x"] * POINTS)}, "normal.npy: does not hold numbers"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    make(tmp_path, "train/s", **change)
    with pytest.raises(DataError, match=message) as caught:
        PointceptScenes(tmp_path, ["train"], ("only",), absent=ZEROS)[0]
    assert str(tmp_path / "train" / "s") in caught.value.message


@pytest.mark.parametrize("content", ["[", "{}", "[]", '["absent"]'])
def test_wrong_lists_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(DataError, match=r"mine\.json"):
        PointceptScenes(tmp_path, ["mine"], ("only",))
    with pytest.raises(MissingDataError):
        PointceptScenes(tmp_path, ["train"], ("only",))


def kitti_frame(root: Path, sequence: str, labels: bytes | None) -> None:
    rows = np.arange(12, dtype="<f4").reshape(3, 4)
    for folder, name, content in (("velodyne", "000007.bin", rows.tobytes()), ("labels", "000007.label", labels)):
        path = root / "dataset/sequences" / sequence / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)


def test_kitti_frames(tmp_path: Path) -> None:
    raw = np.array([252 | 5 << 16, 99, 81], dtype="<u4")
    for sequence in TRAIN:
        kitti_frame(tmp_path, sequence, raw.tobytes())
    kitti_frame(tmp_path, "08", None)
    splits = kitti_splits(tmp_path)
    assert splits.test.names == ("08_000007",)
    assert splits.test[0].labels.tolist() == [-1, -1, -1]
    frame = splits.train[0]
    assert frame.labels.tolist() == [CLASSES.index("car"), -1, CLASSES.index("traffic-sign")]
    assert frame.coordinates.tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert frame.strength is not None
    assert frame.strength.tolist() == [[3], [7], [11]]
    with pytest.raises(MissingDataError):
        kitti_splits(tmp_path / "dataset/sequences")


@pytest.mark.parametrize(
    ("frame", "labels", "message"),
    [
        (b"123", None, "no whole number"),
        (b"", None, "0 numbers"),
        (bytes(20), None, "not four a point"),
        (bytes(16), bytes(8), "2 labels for 1 points"),
        (bytes(16), bytes([7, 0, 0, 0]), "the label 7, which"),
    ],
)
def test_damaged_kitti_frames(write: Write, tmp_path: Path, frame: bytes, labels: bytes | None, message: str) -> None:
    path = write("a.bin", frame)
    beside = tmp_path / "absent.label" if labels is None else write("a.label", labels)
    with pytest.raises(DataError, match=message):
        read_frame(path, beside, "a")


def test_labels_written_are_read_as_the_same_classes() -> None:
    raw = np.array(scene_classes.SEMANTIC_KITTI_WRITTEN, dtype=np.uint32)
    assert class_indices(raw, "a").tolist() == list(range(19))


def test_a_real_frame(real_data: Path) -> None:
    folder = real_data / "raw/semantickitti"
    frame = read_frame(folder / "000000.bin", folder / "000000.label", "00_000000")
    assert len(frame) == 123_389
    counts = np.bincount(frame.labels + 1, minlength=20).tolist()
    expected = [1534, 20, 0, 0, 0, 161, 0, 0, 20975, 84, 30092, 0, 2126, 531, 24514, 3978, 30925, 413, 1112]
    assert counts == [6924, *expected]
    table = voxel_table(frame.coordinates, 0.05)
    assert len(table.counts) == 94_444
    assert table.counts.max() == 9
    assert table.voxels.max(axis=0).tolist() == [3173, 3166, 612]


def test_rooms_of_s3dis_with_colors(write: Write, tmp_path: Path) -> None:
    for area in (1, 5):
        write(f"Area_{area}/hall_1/Annotations/floor_1.txt", "5 5 5 10 20 30\n6 5 5 10 20 30\n")
        write(f"Area_{area}/hall_1/Annotations/stairs_1.txt", "5 5 7 1 2 3\n")
    splits = s3dis_scene_splits(tmp_path, absent=ZEROS)
    room = splits.test[0]
    assert room.name == "Area_5_hall_1"
    assert room.coordinates.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 2]]
    assert room.colors is not None
    assert room.colors[2].tolist() == [1, 2, 3]
    assert room.labels.tolist() == [1, 1, 12]
    with pytest.raises(UsageError, match="test_area: 3"):
        s3dis_scene_splits(tmp_path, 3)
