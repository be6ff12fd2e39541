"""Blocks and tiles of S3DIS, on rooms that the test makes in the published layout."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import FreshClouds, PiecesOfScenes
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.s3dis_blocks import S3DISBlocks, label_weights
from geopeft_cli.data.s3dis_rooms import PART_NAMES, ROOMS, Room
from geopeft_cli.data.s3dis_tiles import RoomTiles
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError, MissingDataError, UsageError

POINTS = 64


def write_room(root, name, size=(2.3, 1.4, 2.5), count=1000, seed=0, shift=0.0):
    """x y z r g b label, float64; the label is the height in thirteen steps."""
    low = np.random.default_rng(seed).uniform(size=(count, 3))
    low[:2] = [[0, 0, 0], [1, 1, 1]]
    labels = np.minimum(low[:, 2] * 13, 12).astype(int)
    rows = np.column_stack([low * size + shift, np.full((count, 3), 200.0), labels])
    root.mkdir(exist_ok=True)
    np.save(root / f"Area_{name}.npy", rows)
    return rows


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(("1_office_1", "1_office_2", "4_hallway_1", "5_office_1", "5_lobby_1", "6_copyRoom_1")):
        write_room(tmp_path / "rooms", name, count=700 + 100 * seed, seed=seed)
    return tmp_path / "rooms"


def splits(root, **options):
    values = {"test_area": 5, "validation_area": None, "points": POINTS, "test": "blocks", "passes": 2, "seed": 0}
    return splits_for("s3dis_blocks", root=root, **values | options)


def test_the_thirteen_classes_and_272_rooms():
    assert (PART_NAMES[0], PART_NAMES[2], PART_NAMES[9], PART_NAMES[12]) == ("ceiling", "wall", "sofa", "clutter")
    assert (len(PART_NAMES), sum(ROOMS.values())) == (13, 272)


def test_areas_are_the_split(root):
    parts = splits(root)
    assert parts.validation is None
    assert parts.test.classes == ("room",)
    assert parts.train.parts == {"room": tuple(range(13))}
    # rooms of 700, 800, 900 and 1200 points, and of 1000 and 1100
    assert (len(parts.train), len(parts.test)) == (11 + 12 + 14 + 19, 17 + 16)
    assert parts.test[0].name == "block 0 of Area_5_lobby_1"
    assert "Area_1_office_2" in parts.train[11].name
    held = splits(root, validation_area=1)
    assert (len(held.train), len(held.validation)) == (14 + 19, 11 + 12)


def test_a_block_is_a_column_around_a_point_of_its_room(tmp_path):
    rows = write_room(tmp_path / "rooms", "1_office_1", shift=7.0)
    room = Room(tmp_path / "rooms/Area_1_office_1.npy")
    cloud = S3DISBlocks([room], POINTS, 0).fresh(0, np.random.default_rng(5))
    xyz = (rows[:, :3] - rows[:, :3].min(axis=0)).astype(np.float32)
    center = room.points[np.random.default_rng(5).integers(1000), :2]
    inside = (np.abs(xyz[:, :2] - center) <= 0.5).all(axis=1)
    wanted = np.column_stack([xyz[inside] - [*center, 0], rows[inside, 6]])
    found = np.column_stack([cloud.points, cloud.point_labels])
    assert len(found) == inside.sum() > POINTS // 2
    order = [np.lexsort(table.T[2::-1].round(4)) for table in (found, wanted)]
    np.testing.assert_allclose(found[order[0]], wanted[order[1]], atol=1e-6)


def test_blocks_are_new_in_training_and_the_same_in_testing(root):
    parts = splits(root)
    assert isinstance(parts.train, FreshClouds)
    first, again = parts.train.fresh(3, np.random.default_rng(1)), parts.train.fresh(3, np.random.default_rng(2))
    assert first.points.shape != again.points.shape or not np.array_equal(first.points, again.points)
    np.testing.assert_array_equal(parts.test[3].points, splits(root).test[3].points)
    assert not np.array_equal(parts.test[3].points, splits(root, seed=1).test[3].points)
    preparation = Preparation(POINTS, "none")
    batches = Batches(parts.train, preparation, batch_size=4, seed=0, training=True, purpose="train")
    for batch in batches.epoch(0):
        assert batch.point_labels.shape == (4, POINTS)
        height = batch.points[:, :, 2].numpy()
        np.testing.assert_array_equal(np.minimum(height / 2.5 * 13 + 1e-5, 12).astype(int), batch.point_labels)
        assert batch.points[:, :, :2].abs().max() <= 0.5001


def test_thin_blocks_are_drawn_anew_and_a_thin_room_is_refused(tmp_path):
    write_room(tmp_path / "rooms", "1_office_1", size=(30.0, 30.0, 2.0), count=200)
    # 40 more points within a meter are the only place with enough
    path = tmp_path / "rooms/Area_1_office_1.npy"
    rows = np.load(path)
    rows[100:140, :2] = 15 + rows[100:140, :2] / 100
    np.save(path, rows)
    cloud = S3DISBlocks([Room(path)], POINTS, 0)[0]
    assert len(cloud.points) > POINTS // 2
    with pytest.raises(DataError, match=r"Area_1_office_1\.npy: none of 1000 blocks"):
        S3DISBlocks([Room(path)], 4 * POINTS, 0)[0]


@pytest.mark.parametrize("size", [(2.3, 1.4, 2.0), (0.3, 0.4, 2.0), (1.0, 3.0, 2.0)])
def test_tiles_cover_every_point_with_its_label(tmp_path, size):
    rows = write_room(tmp_path / "rooms", "5_office_1", size=size, count=300, shift=-3.0)
    room = Room(tmp_path / "rooms/Area_5_office_1.npy")
    tiles = RoomTiles([room], POINTS, 2, seed=0)
    assert isinstance(tiles, PiecesOfScenes)
    assert tiles.scenes == ("Area_5_office_1",)
    np.testing.assert_array_equal(tiles.scene_labels(0), rows[:, 6])
    xyz = rows[:, :3] - rows[:, :3].min(axis=0)
    votes = np.zeros(300, int)
    for index in range(len(tiles)):
        cloud, (scene, origin) = tiles[index], tiles.origin(index)
        assert (scene, len(cloud.points)) == (0, POINTS)
        np.testing.assert_array_equal(cloud.point_labels, rows[origin, 6])
        shift = xyz[origin] - cloud.points
        np.testing.assert_allclose(shift, np.broadcast_to([*shift[0, :2], 0.0], shift.shape), atol=1e-5)
        assert np.abs(cloud.points[:, :2]).max() <= 0.502
        np.add.at(votes, origin, 1)
    assert votes.min() >= 2


def test_tiles_step_by_half_a_meter_and_end_at_the_wall(tmp_path):
    write_room(tmp_path / "rooms", "5_office_1", size=(2.3, 1.0, 2.0), count=4000)
    room = Room(tmp_path / "rooms/Area_5_office_1.npy")
    tiles = RoomTiles([room], 4000, 1, seed=0)
    xyz = room.points[np.argsort(room.rows)]
    middles = [float((xyz[tiles.origin(index)[1]] - tiles[index].points)[0, 0]) for index in range(len(tiles))]
    assert middles == pytest.approx([0.5, 1.0, 1.5, 1.8], abs=1e-5)


def test_chunks_fill_up_with_points_of_their_tile_and_differ_from_pass_to_pass(tmp_path):
    write_room(tmp_path / "rooms", "5_office_1", size=(0.9, 0.9, 2.0), count=150)
    tiles = RoomTiles([Room(tmp_path / "rooms/Area_5_office_1.npy")], POINTS, 2, seed=0)
    assert len(tiles) == 2 * 3
    passes = [np.concatenate([tiles.origin(i)[1] for i in range(first, first + 3)]) for first in (0, 3)]
    for rows in passes:
        counts = np.bincount(rows, minlength=150)
        assert (counts.min(), counts.max(), counts.sum()) == (1, 2, 192)
    assert not np.array_equal(*passes)


def test_chunks_go_through_batches_as_they_are(root):
    tiles = splits(root, test="rooms").test
    assert tiles.scenes == ("Area_5_lobby_1", "Area_5_office_1")
    batches = Batches(tiles, Preparation(POINTS, "none"), batch_size=8, seed=0, training=False, purpose="test")
    batch = next(batches.epoch(0))
    assert (batch.picks == np.arange(POINTS)).all()
    np.testing.assert_array_equal(batch.points[5], tiles[5].points)


def test_weights_of_labels(root):
    train = splits(root).train
    counts = train.point_counts()
    assert counts.sum() == 700 + 800 + 900 + 1200
    weights = label_weights(counts)
    assert weights.min() == 1.0
    share = counts / counts.sum()
    np.testing.assert_allclose(weights, (share.max() / share) ** (1 / 3))
    assert label_weights([8, 1, 0]).tolist() == pytest.approx([1.0, 2.0, 0.0])


def test_another_number_of_rooms_than_published_is_told(root, caplog):
    with caplog.at_level(logging.WARNING):
        splits(root)
    assert "Area_5 has 2 rooms, the published set 68" in caplog.text


def test_missing_folders_and_areas(root, tmp_path):
    with pytest.raises(MissingDataError, match="no such folder"):
        splits(root / "gone")
    with pytest.raises(MissingDataError, match=r"has neither Area_<1 to 6>_<room>\.npy nor"):
        splits(tmp_path)
    with pytest.raises(MissingDataError, match="has no rooms of Area 2 and 3, only of 1, 4, 5, 6"):
        splits(root, test_area=3, validation_area=2)
    for path in root.glob("Area_[146]*"):
        path.unlink()
    with pytest.raises(MissingDataError, match="has no rooms to train on"):
        splits(root)
    with pytest.raises(UsageError, match="5 is the test area"):
        splits(root, validation_area=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:, :6], r"has the shape \(700, 6\), not \(points, 7\)"),
        (lambda rows: rows[0], "has the shape"),
        (lambda rows: rows.astype(str), "not numbers"),
        (lambda rows: rows + np.eye(7)[6], r"has the label 13, which S3DIS does not have"),
        (lambda rows: np.where(rows == 200.0, 200.0, np.nan), "NaN or infinite"),
    ],
)
def test_a_damaged_room(root, change, words):
    path = root / "Area_1_office_1.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(DataError, match=r"Area_1_office_1\.npy: .*" + words):
        splits(root).train[0]


def test_a_room_that_is_no_array(root):
    (root / "Area_1_office_1.npy").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"Area_1_office_1\.npy: cannot be read"):
        splits(root)
