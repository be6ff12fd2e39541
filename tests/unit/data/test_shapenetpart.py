"""ShapeNetPart: the published layout written by the test, and files that are not so."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest

from geopeft_cli.data.batches import Batches
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.shapenetpart import CATEGORIES, PART_NAMES, PARTS, shapenetpart_splits
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import DataError, MissingDataError

LISTS = {part: f"train_test_split/shuffled_{part}_file_list.json" for part in ("train", "val", "test")}
FIRST = {name: 4 * index for index, name in enumerate(sorted(CATEGORIES))}


def rows(category, seed, count=12):
    """x y z nx ny nz part, far from the origin; the parts of the category in turn."""
    generator = np.random.default_rng(seed)
    parts = np.array(PARTS[category])[np.arange(count) % len(PARTS[category])]
    return np.column_stack([5 + generator.normal(size=(count, 6)).round(5), parts.astype(float)])


def write_shape(root, category, shape, seed, count=12):
    folder = root / CATEGORIES[category].synset
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / f"{shape}.txt", rows(category, seed, count), fmt=["%.6f"] * 7)


def write_lists(root, lists):
    for part, names in lists.items():
        path = root / LISTS[part]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(names))


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Every category with two training shapes, one for validation and one for testing, and one in no list."""
    root = tmp_path_factory.mktemp("parts")
    lists = {"train": [], "val": [], "test": []}
    order = sorted(CATEGORIES)
    (root / "synsetoffset2category.txt").write_text("".join(f"{c}\t{CATEGORIES[c].synset}\n" for c in order))
    for category in order:
        synset = CATEGORIES[category].synset
        for number, part in enumerate(("val", "train", "test", "train", None)):
            shape = f"{category.lower()}{number}"
            write_shape(root, category, shape, FIRST[category] + number)
            if part:
                lists[part].insert(0, f"shape_data/{synset}/{shape}")
    write_lists(root, lists)
    return root


@pytest.fixture
def root(complete, tmp_path):
    """A copy to damage."""
    return shutil.copytree(complete, tmp_path / "parts")


def names(clouds):
    return [clouds[index].name.rpartition("/")[2] for index in range(len(clouds))]


def test_the_published_numbers_of_categories_and_parts():
    assert (len(CATEGORIES), len(PART_NAMES)) == (16, 50)
    assert sorted(CATEGORIES) == list(CATEGORIES)
    assert [label for own in PARTS.values() for label in own] == list(range(50))
    counts = [len(PARTS[name]) for name in sorted(CATEGORIES)]
    assert counts == [4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3]
    spans = {"Bag": (4, 5), "Chair": (12, 15), "Motorbike": (30, 35), "Mug": (36, 37), "Table": (47, 49)}
    assert {name: (PARTS[name][0], PARTS[name][-1]) for name in spans} == spans
    assert (PART_NAMES[0], PART_NAMES[5], PART_NAMES[49]) == ("Airplane 0", "Bag 1", "Table 2")


def test_shapes_come_category_by_category_and_training_has_the_validation_list(complete):
    splits = shapenetpart_splits(complete, validation=False)
    assert splits.validation is None
    assert splits.train.classes == tuple(sorted(CATEGORIES)) == tuple(splits.train.parts)
    assert names(splits.train)[:6] == [
        *("airplane0.txt", "airplane1.txt", "airplane3.txt", "bag0.txt", "bag1.txt", "bag3.txt")
    ]
    assert names(splits.test)[:2] == ["airplane2.txt", "bag2.txt"]
    assert (len(splits.train), len(splits.test)) == (48, 16)
    assert splits.train.labels().tolist() == np.repeat(range(16), 3).tolist()


def test_the_validation_list_kept_apart(complete):
    splits = splits_for("shapenetpart", root=complete, validation=True, seed=3)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (32, 16, 16)
    assert names(splits.validation)[15] == "table0.txt"
    assert not set(names(splits.train)) & set(names(splits.validation))


def test_a_shape_is_its_file(complete):
    cloud = shapenetpart_splits(complete, validation=False).test[4]
    wanted = rows("Chair", FIRST["Chair"] + 2)
    assert (cloud.label, cloud.name) == (4, "03001627/chair2.txt")
    np.testing.assert_array_equal(cloud.points, wanted[:, :3].astype(np.float32))
    assert cloud.point_labels.tolist() == wanted[:, 6].tolist() == [12, 13, 14, 15] * 3


@pytest.mark.parametrize("sampling", ["random", "with_replacement"])
def test_batches_are_normalized_over_all_points_and_repeat_in_testing(complete, sampling):
    test = shapenetpart_splits(complete, validation=False).test
    batches = Batches(test, Preparation(8, sampling=sampling), batch_size=8, seed=0, training=False, purpose="test")
    first, again = (list(batches.epoch(epoch)) for epoch in range(2))
    for batch, same in zip(first, again, strict=True):
        assert batch.picks.tolist() == same.picks.tolist()
        for index, points, picks, labels in zip(
            batch.indices, batch.points, batch.picks, batch.point_labels, strict=True
        ):
            cloud = test[int(index)]
            whole = cloud.points - cloud.points.mean(axis=0)
            np.testing.assert_allclose(points, (whole / np.linalg.norm(whole, axis=1).max())[picks], atol=1e-6)
            assert labels.tolist() == cloud.point_labels[picks].tolist()
    distinct = {len(set(picks.tolist())) for batch in first for picks in batch.picks}
    assert (distinct == {8}) is (sampling == "random")


def test_another_number_of_shapes_than_published_is_told(complete, caplog):
    with caplog.at_level(logging.WARNING):
        shapenetpart_splits(complete, validation=False)
    assert "shuffled_test_file_list.json has 16 clouds, the published set 2874" in caplog.text


def test_labels_of_categories_follow_the_order_of_the_list(root):
    lines = (root / "synsetoffset2category.txt").read_text().splitlines()
    (root / "synsetoffset2category.txt").write_text("\n".join(lines[::-1]))
    splits = shapenetpart_splits(root, validation=False)
    assert splits.test.classes[0] == "Table"
    assert splits.test[0].label == 0
    assert set(splits.test[0].point_labels.tolist()) == {47, 48, 49}


def test_everything_missing_is_named_at_once(root):
    (root / LISTS["val"]).unlink()
    shutil.rmtree(root / "03797390")
    with pytest.raises(MissingDataError) as caught:
        shapenetpart_splits(root, validation=False)
    assert f"{root}: has no {LISTS['val']}, 03797390" in caught.value.message
    assert "ShapeNet's terms" in caught.value.hint
    with pytest.raises(MissingDataError, match="no such folder"):
        shapenetpart_splits(root / "gone", validation=False)


def test_listed_shapes_without_a_file(root):
    (root / "02691156/airplane1.txt").unlink()
    (root / "03797390/mug2.txt").unlink()
    with pytest.raises(MissingDataError, match=r"2 of 64 listed shapes .* the first is airplane1"):
        shapenetpart_splits(root, validation=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Airplane 02691156\n", "does not list the 16 categories once each: Bag, Cap"),
        ("Airplane 02773838\n", ":1: 'Airplane 02773838' is none of the 16"),
        ("Spoon 02691156\n", ":1: 'Spoon"),
    ],
)
def test_a_wrong_list_of_categories(root, content, words):
    (root / "synsetoffset2category.txt").write_text(content)
    with pytest.raises(DataError, match=words):
        shapenetpart_splits(root, validation=False)


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", '["shape_data/02691156'])
def test_a_damaged_list(root, content):
    (root / LISTS["test"]).write_text(content)
    with pytest.raises(DataError, match=r"shuffled_test_file_list\.json: (cannot be read|is not a list)"):
        shapenetpart_splits(root, validation=False)


def test_a_shape_in_two_lists(root):
    write_lists(root, {"test": ["shape_data/02691156/airplane0"]})
    with pytest.raises(DataError, match=r"airplane0 is in .*_val_.*_test_"):
        shapenetpart_splits(root, validation=False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 2 3 0 0 1", r"airplane2\.txt:2: 6 columns, not 7"),
        ("1 2 3 0 0 1 2 9", r"airplane2\.txt:2: 8 columns, not 7"),
        ("1 2 x 0 0 1 2", r"airplane2\.txt:2: 'x' is not a number"),
        ("1 2 nan 0 0 1 2", "NaN or infinite"),
        ("1 2 3 0 0 1 4", "point 1 has the label 4, which Airplane does not have"),
        ("1 2 3 0 0 1 1.5", "point 1 has the label 1.5"),
        ("1 2 3 0 0 1 -1", "point 1 has the label -1"),
    ],
)
def test_a_damaged_shape(root, line, words):
    path = root / "02691156/airplane2.txt"
    path.write_text(f"1 2 3 0 0 1 2\n{line}\n4 5 6 0 0 1 3\n")
    with pytest.raises(DataError, match=words):
        shapenetpart_splits(root, validation=False).test[0]


def test_an_empty_shape_and_one_of_narrow_lines(root):
    for content, words in (("\n", "is empty"), ("1 2 3\n4 5 6\n", ":1: 3 columns, not 7")):
        (root / "02691156/airplane2.txt").write_text(content)
        with pytest.raises(DataError, match=words):
            shapenetpart_splits(root, validation=False).test[0]
