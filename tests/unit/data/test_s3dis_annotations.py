"""S3DIS as it is given out: rooms from the files of their objects, made once."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from geopeft_cli.data.s3dis_annotations import FOLDER, rooms_of_annotations
from geopeft_cli.data.s3dis_rooms import PART_NAMES, rooms_by_area
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError

OBJECTS = {"ceiling_1": 5, "chair_1": 3, "chair_12": 4, "stairs_1": 2, "clutter_3": 1}


def write_room(root, area, room, objects=OBJECTS, seed=0):
    folder = root / f"Area_{area}" / room / "Annotations"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for name, count in objects.items():
        rows = np.column_stack([generator.uniform(-20, 20, (count, 3)), generator.integers(0, 256, (count, 3))])
        np.savetxt(folder / f"{name}.txt", rows, fmt="%.3f %.3f %.3f %d %d %d")
    (root / f"Area_{area}" / room / f"{room}.txt").write_text("the whole room, which is not read")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOPEFT_CACHE", str(tmp_path / "cache"))
    write_room(tmp_path / "set", 1, "office_1")
    write_room(tmp_path / "set", 5, "hallway_6", seed=1)
    return tmp_path / "set"


def test_a_room_is_its_objects(root, caplog):
    paths = rooms_of_annotations(root, PART_NAMES)
    assert paths == [root / FOLDER / f"Area_{name}.npy" for name in ("1_office_1", "5_hallway_6")]
    assert "objects that count as clutter: stairs" in caplog.text
    rows = np.load(paths[0])
    assert rows[:, 6].tolist() == [0] * 5 + [8] * 7 + [12] * 3
    assert rows[:, :3].min(axis=0).tolist() == [0, 0, 0]
    chair = np.loadtxt(root / "Area_1/office_1/Annotations/chair_12.txt")
    np.testing.assert_allclose(rows[8:12, :3] - rows[8, :3], chair[:, :3] - chair[0, :3], atol=1e-5)
    np.testing.assert_array_equal(rows[8:12, 3:6], chair[:, 3:])


def test_rooms_are_made_once_and_anew_after_a_change(root):
    path = rooms_of_annotations(root, PART_NAMES)[0]
    np.save(path, np.zeros((1, 7)))
    assert rooms_of_annotations(root, PART_NAMES)[0] == path
    assert len(np.load(path)) == 1
    changed = root / "Area_1/office_1/Annotations/chair_1.txt"
    changed.write_text("1 2 3 4 5 6\n")
    later = path.stat().st_mtime_ns + 10**9
    os.utime(changed, ns=(later, later))
    assert len(np.load(rooms_of_annotations(root, PART_NAMES)[0])) == 13


def test_where_nothing_can_be_written_the_cache_folder_keeps_them(root, tmp_path):
    (root / FOLDER).write_text("in the way of the folder")
    paths = rooms_of_annotations(root, PART_NAMES)
    assert {path.parent.parent for path in paths} == {tmp_path / "cache"}
    assert rooms_of_annotations(root, PART_NAMES) == paths


def test_the_format_reads_annotations(root):
    splits = splits_for(
        "s3dis_blocks", root=root, test_area=5, validation_area=None, points=4, test="rooms", passes=1, seed=0
    )
    assert len(splits.test.scene_labels(0)) == 15
    assert splits.train.point_counts().tolist() == [5, *[0] * 7, 7, *[0] * 3, 3]
    arrays = root.parent / "arrays"
    shutil.copytree(root / FOLDER, arrays)
    assert {area: [room.name for room in rooms] for area, rooms in rooms_by_area(arrays).items()} == {
        1: ["Area_1_office_1"],
        5: ["Area_5_hallway_6"],
    }


def test_a_stray_character_is_named_with_its_line(root):
    path = root / "Area_5/hallway_6/Annotations/ceiling_1.txt"
    lines = path.read_text().splitlines()
    lines[2] = "1.0 2.0 3.0 185\x10187 4 5"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"ceiling_1\.txt:3: ") as caught:
        rooms_of_annotations(root, PART_NAMES)
    assert "Area_5/hallway_6" in caught.value.hint


def test_a_room_without_objects(root):
    for path in (root / "Area_1/office_1/Annotations").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"Annotations: has no <class>_<number>\.txt"):
        rooms_of_annotations(root, PART_NAMES)


def test_a_real_scan_in_this_layout(real_data, tmp_path, caplog):
    source = real_data / "raw/s3dis_layout"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    root = shutil.copytree(source, tmp_path / "park")
    (path,) = rooms_of_annotations(root, PART_NAMES)
    lines = sum(len(file.read_text().splitlines()) for file in source.rglob("*.txt"))
    rows = np.load(path)
    assert (path.name, rows.shape) == ("Area_1_Park_1.npy", (lines, 7))
    assert "objects that count as clutter: ground, tree" in caplog.text
    assert set(rows[:, 6].tolist()) == {12.0}
    assert rows[:, :3].min() == 0
