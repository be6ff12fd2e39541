"""Labels of points in the user's own files: packed, in folders, and on real scans."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.folder import folder_splits
from geopeft_cli.data.formats.labelled import read_labelled
from geopeft_cli.data.packed import packed_splits
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.errors import DataError

FRACTION = {"by": "fraction", "validation": 0.0, "test": 0.25}
FIELD = {"by": "field", "field": "is_test", "validation": 0.0}
POINTS = np.random.default_rng(0).normal(size=(8, 6, 3)).astype(np.float32)
LABELS = np.where(np.arange(8)[:, None] % 2, [0, 1, 0, 1, -1, 0], [1, 2, 2, 2, 1, 1]).astype(np.int16)


@pytest.fixture
def pack(tmp_path):
    """``pack(points=..., ...)`` writes a file with the defaults of this module, ``None`` leaving an array out."""

    def writer(**arrays):
        content = {"points": POINTS, "label": np.arange(8) % 2, "point_labels": LABELS, "is_test": np.arange(8) < 2}
        content |= {"classes": np.array(["tree", "car"]), "part_names": np.array(["leaf", "stem", "crown"])} | arrays
        np.savez(tmp_path / "clouds.npz", **{name: array for name, array in content.items() if array is not None})
        return tmp_path / "clouds.npz"

    return writer


def test_labels_of_a_packed_file(pack):
    test = packed_splits(pack(), FIELD, seed=0).test
    assert test.part_names == ("leaf", "stem", "crown")
    assert test.parts == {"tree": (1, 2), "car": (0, 1)}
    assert test[1].point_labels.tolist() == LABELS[1].tolist()
    assert packed_splits(pack(part_names=None), FIELD, seed=0).train.part_names == ("0", "1", "2")
    assert packed_splits(pack(point_labels=None), FIELD, seed=0).train.parts == {}


@pytest.mark.parametrize("offset", [[6, 9, 24], [0, 6, 9, 24]])
def test_clouds_of_different_sizes_and_one_class(pack, offset):
    arrays = {"points": POINTS.reshape(-1, 3)[:24], "point_labels": LABELS.ravel()[:24], "offset": np.array(offset)}
    path = pack(**arrays, label=None, classes=np.array(["scan"]), is_test=np.arange(3) == 1)
    splits = packed_splits(path, FIELD, seed=0)
    assert splits.test[0].point_labels.tolist() == LABELS.ravel()[6:9].tolist()
    assert (splits.train.labels().tolist(), splits.train.classes) == ([0, 0], ("scan",))
    assert splits.train.parts == {"scan": (0, 1, 2)}


def test_labels_go_with_the_points_that_are_left(pack):
    points = POINTS.copy()
    points[0, 1] = np.nan
    cloud = packed_splits(pack(points=points), FIELD, seed=0).test[0]
    assert (len(cloud.points), cloud.point_labels.tolist()) == (5, [1, 2, 2, 1, 1])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"point_labels": LABELS[:, :5]}, r"point_labels has the shape \(8, 5\) for points \(8, 6, 3\)"),
        ({"point_labels": LABELS.astype(float)}, "point_labels is of type float64"),
        ({"point_labels": LABELS + 1}, r"holds 3, not in 0\.\.2 or -1"),
        ({"point_labels": LABELS - 1}, "holds -2, not in"),
        ({"point_labels": np.full_like(LABELS, -1)}, "holds -1, not in"),
        ({"point_labels": None, "label": None}, "has no array 'label'"),
        ({"label": None, "points": POINTS[:0], "point_labels": LABELS[:0]}, r"label has the shape \(0,\)"),
    ],
)
def test_wrong_labels_in_a_packed_file(pack, arrays, words):
    with pytest.raises(DataError, match=words):
        packed_splits(pack(**arrays), FIELD, seed=0)


def write(path, points, labels):
    table = np.column_stack([points, np.full(len(points), 77.0), labels])
    if path.suffix == ".npz":
        np.savez(path, points=points, point_labels=labels)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["points"], file["point_labels"] = points, labels
    elif path.suffix == ".npy":
        np.save(path, table)
    else:
        np.savetxt(path, table, fmt="%.6f", header="x y z intensity label")


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".npy", ".txt", ".xyz"])
def test_a_label_beside_or_behind_every_point(tmp_path, suffix):
    points = POINTS[0].copy()
    write(tmp_path / f"a{suffix}", points, LABELS[0])
    found, labels = read_labelled(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(found, points, atol=1e-6)
    assert labels.tolist() == LABELS[0].tolist()


def test_points_that_are_not_finite_take_their_labels_away(tmp_path):
    points = POINTS[0].copy()
    points[2] = np.inf
    write(tmp_path / "a.npz", points, LABELS[0])
    found, labels = read_labelled(tmp_path / "a.npz")
    assert (len(found), labels.tolist()) == (5, np.delete(LABELS[0], 2).tolist())


def test_a_file_without_a_label_for_every_point(tmp_path):
    np.save(tmp_path / "a.npy", POINTS[0])
    np.savez(tmp_path / "b.npz", points=POINTS[0])
    np.savez(tmp_path / "c.npz", points=POINTS[0], point_labels=LABELS[0][:5])
    (tmp_path / "d.txt").write_text("1 2 3\n")
    (tmp_path / "e.txt").write_text("")
    (tmp_path / "f.ply").write_text("ply")
    np.savez(tmp_path / "g.npz", points=POINTS[0] * np.nan, point_labels=LABELS[0])
    wanted = {
        "a.npy": "has 3 columns",
        "b.npz": "has no array 'point_labels'",
        "c.npz": r"point_labels is int16 \(5,\) for 6 points",
        "d.txt": "has 3 columns",
        "e.txt": "has 0 columns",
        "f.ply": "holds no labels of points",
        "g.npz": "none that is finite",
        "h.npz": "no such file",
    }
    for name, words in wanted.items():
        with pytest.raises(DataError, match=f"{name}: .*{words}"):
            read_labelled(tmp_path / name)


@pytest.fixture
def folder(tmp_path):
    for number in range(8):
        path = tmp_path / "scans" / ("tree", "car")[number % 2] / f"{number}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, POINTS[number], LABELS[number])
    return tmp_path / "scans"


def test_a_folder_of_labelled_files(folder):
    splits = folder_splits(folder, FRACTION, 6, seed=0, part_names=["leaf", "stem", "crown"])
    assert splits.train.parts == {"car": (0, 1, 2), "tree": (0, 1, 2)}
    cloud = splits.train[0]
    assert cloud.point_labels.tolist() == LABELS[int(cloud.name[-5])].tolist()
    batch = next(Batches(splits.test, Preparation(4), batch_size=2, seed=0, training=False, purpose="test").epoch(0))
    assert batch.point_labels.shape == (2, 4)
    assert folder_splits(folder, FRACTION, 6, seed=0).train[0].point_labels is None


def test_labels_beyond_the_names_stop_the_run_or_leave_the_file_out(folder, caplog):
    names = ["leaf", "stem"]
    with pytest.raises(DataError, match=r"tree/\d\.npz: point 1 has the label 2, which data\.part_names does not have"):
        folder_splits(folder, FRACTION, 6, seed=0, part_names=names).train[3]
    for number in (0, 2, 4):
        write(folder / f"tree/{number}.npz", POINTS[number], LABELS[number] - 1)
    splits = folder_splits(folder, FRACTION, 6, 0, "skip", names)
    assert len(splits.train) + len(splits.test) == 7
    assert "skipped clouds that cannot be read: 1" in caplog.text


def test_objects_on_real_tables(real_data, tmp_path):
    path = real_data / "mosd_8192.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with np.load(path) as arrays:
        scenes, offset, objects = arrays["scene"], arrays["offset"], arrays["object"]
        points = arrays["points"].astype(np.float32)
    is_test = np.array([str(scene).startswith("test") for scene in scenes])
    labels = (objects > 0).astype(np.int64)
    names = {"part_names": np.array(["table", "object"]), "classes": np.array(["table top"])}
    packed = tmp_path / "tables.npz"
    np.savez(packed, points=points, offset=offset, point_labels=labels, is_test=is_test, **names)
    test = packed_splits(packed, FIELD, seed=0).test
    assert (len(test), test.parts) == (65, {"table top": (0, 1)})
    batches = Batches(test, Preparation(512, "center"), batch_size=5, seed=0, training=False, purpose="test")
    batch = next(batches.epoch(0))
    start = int(offset[np.flatnonzero(is_test)[3]])
    np.testing.assert_array_equal(batch.point_labels[3], labels[start + batch.picks[3].numpy()])
    assert 0.02 < batch.point_labels.double().mean() < 0.98
