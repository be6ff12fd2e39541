"""Sets of the literature that are missing, damaged or dangerous, through the command line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.data.modelnet import STORED_POINTS

Refused = Callable[..., str]
FILES = ("main_split/training_objectdataset.h5", "main_split/test_objectdataset.h5")


class Running:
    """Makes a folder when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """ScanObjectNN, OBJ-BG, with one test cloud and two training clouds of each class."""
    for name, count in zip(FILES, (30, 15), strict=True):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["data"] = np.random.default_rng(0).normal(size=(count, 140, 3)).astype(np.float32)
            file["label"] = np.arange(count) % 15
    return tmp_path / "scans"


def of(scans: Path) -> str:
    return f"data={{format: scanobjectnn, root: {scans}, variant: obj_bg, points: 128}}"


def test_the_scans_are_good_to_begin_with(tiny_recipe: Path, scans: Path, tmp_path: Path) -> None:
    arguments = ["finetune", str(tiny_recipe), of(scans), "training.epochs=1", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "has 30 clouds, the published set 2309" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("format: scanobjectnn, variant: hardest", "agreement"),
        ("format: modelnet40", "modelnet40_shape_names.txt"),
        ("format: modelnet10", "modelnet10_shape_names.txt"),
        ("format: modelnet_fewshot, way: 5, shot: 10", "5way_10shot/0.pkl"),
        ("format: shapenetpart", "shuffled_train_file_list.json"),
        ("format: s3dis_blocks", "agreement"),
    ],
)
def test_a_set_that_is_not_there(refused: Refused, tiny_recipe: Path, tmp_path: Path, data: str, words: str) -> None:
    message = refused("finetune", tiny_recipe, f"data={{{data}, root: gone}}", code=2)
    assert f"{tmp_path / 'gone'}: no such folder" in message
    assert words in message


def test_a_damaged_file(refused: Refused, tiny_recipe: Path, scans: Path) -> None:
    (scans / FILES[1]).write_bytes(b"hello")
    assert f"{scans / FILES[1]}: cannot be read" in refused("finetune", tiny_recipe, of(scans), code=1)


def test_a_label_out_of_range(refused: Refused, tiny_recipe: Path, scans: Path) -> None:
    with h5py.File(scans / FILES[0], "r+") as file:
        file["label"][4] = 15
    assert "cloud 4 has the label 15" in refused("finetune", tiny_recipe, of(scans), code=1)


def test_a_program_in_a_fold(refused: Refused, tiny_recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "5way_10shot/0.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({"train": [Running(tmp_path / "made")], "test": []}))
    data = f"data={{format: modelnet_fewshot, root: {tmp_path}, way: 5, shot: 10, points: 128}}"
    message = refused("finetune", tiny_recipe, data, code=1)
    assert "nothing of it was run" in message
    assert not (tmp_path / "made").exists()


def test_a_fold_that_is_good(tiny_recipe: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def clouds(count: int) -> list[tuple[object, int, int]]:
        shape = (STORED_POINTS, 6)
        return [(generator.normal(size=shape).astype(np.float32), index % 2, 3 + index % 2) for index in range(count)]

    path = tmp_path / "2way1shot/9.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({"train": clouds(2), "test": clouds(40)}))
    data = f"data={{format: modelnet_fewshot, root: {tmp_path}, way: 2, shot: 1, fold: 9, points: 128}}"
    arguments = ["finetune", str(tiny_recipe), data, "training.epochs=1", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_test_area_for_validation(refused: Refused, tiny_recipe: Path) -> None:
    message = refused("finetune", tiny_recipe, "data={format: s3dis_blocks, root: gone, validation_area: 5}", code=2)
    assert "data.validation_area is 5, the test area" in message


def test_a_damaged_room(refused: Refused, tiny_recipe: Path, tmp_path: Path) -> None:
    for area, columns in ((1, 7), (5, 6)):
        np.save(tmp_path / f"Area_{area}_office_1.npy", np.zeros((9, columns)))
    message = refused("finetune", tiny_recipe, f"data={{format: s3dis_blocks, root: {tmp_path}}}", code=1)
    assert "Area_5_office_1.npy: has the shape (9, 6), not (points, 7)" in message
