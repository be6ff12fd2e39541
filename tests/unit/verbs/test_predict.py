"""Predictions of clouds without labels, as files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.errors import DataError, MissingDependencyError, UsageError
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.predict import predict_files
from geopeft_cli.verbs.trained import TrainedModel

SQUARE = "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 1\n3 0 1 2\n3 0 2 3\n"


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    """A folder of four clouds of several sizes and formats, a mesh among them, and a file that is none."""
    folder = tmp_path / "clouds"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    np.save(folder / "a.npy", random.normal(size=(300, 3)))
    np.savetxt(folder / "b.xyz", random.uniform(size=(100, 3)) * [1, 5, 1] + 1000)
    np.savez(folder / "more/c.npz", points=random.uniform(size=(128, 3)))
    (folder / "more/d.off").write_text(SQUARE)
    (folder / "notes.md").write_text("not a cloud")
    return folder


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return found


def test_probabilities_of_classes(most_run: Path, clouds: Path, tmp_path: Path) -> None:
    result = predict_files(most_run, [clouds], tmp_path / "out")
    classes = open_trained(most_run).manifest.classes
    assert (result.clouds, result.skipped) == (4, ())
    rows, found = table(tmp_path / "out"), record(tmp_path / "out")
    assert list(rows) == ["a.npy", "b.xyz", "more/c.npz", "more/d.off"]
    for row, entry in zip(rows.values(), found["predictions"], strict=True):
        values = {name: float(row[name]) for name in classes}
        assert sum(values.values()) == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == max(values, key=values.__getitem__) == entry["predicted"]
        assert entry["probabilities"] == values
    assert (found["classes"], found["voting"]) == (classes, "none")
    assert found["prepared"] == {"points": 128, "normalize": "unit_sphere", "sampling": "random"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.csv", "predictions.json"]


def test_neither_the_batch_nor_the_other_files_matter(most_run: Path, clouds: Path, tmp_path: Path) -> None:
    predict_files(most_run, [clouds], tmp_path / "all")
    alone = clouds / "more"
    predict_files(most_run, [alone / "d.off", clouds / "a.npy"], tmp_path / "two", ["evaluation.batch_size=1"])
    whole, part = table(tmp_path / "all"), table(tmp_path / "two")
    assert list(part) == ["more/d.off", "a.npy"]
    for name, row in part.items():
        for key in row.keys() - {"file", "predicted"}:
            assert float(row[key]) == pytest.approx(float(whole[name][key]), abs=2e-6)


def test_a_picture_of_every_cloud(most_run: Path, clouds: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    predict_files(most_run, [clouds / "a.npy", clouds / "more"], tmp_path / "out", picture=True)
    drawn = [tmp_path / "out" / name for name in ("a.png", "more/c.png", "more/d.png")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert len({path.read_bytes() for path in drawn}) == 3


def test_a_bad_file_stops_and_leaves_nothing(most_run: Path, clouds: Path, tmp_path: Path) -> None:
    (clouds / "more/bad.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"more/bad\.npy: cannot be read"):
        predict_files(most_run, [clouds], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clouds"]


def test_bad_files_are_skipped_on_request_and_listed(most_run: Path, clouds: Path, tmp_path: Path) -> None:
    (clouds / "bad.npy").write_bytes(b"nonsense")
    np.save(clouds / "huge.npy", np.full((5, 3), 1e308) * [[1], [-1], [1], [1], [-1]])
    result = CliRunner().invoke(
        app, ["eval", str(most_run), "--input", str(clouds), "--predictions", str(tmp_path / "out"), "--skip-bad"]
    )
    assert result.exit_code == 0, result.stderr
    assert "4 predicted" in result.stdout
    assert f"skipped: {clouds / 'bad.npy'}: cannot be read" in result.stderr
    assert "skipped: huge.npy: its coordinates are too large" in result.stderr
    assert {entry["file"] for entry in record(tmp_path / "out")["skipped"]} == {"bad.npy", "huge.npy"}
    assert list(table(tmp_path / "out")) == ["a.npy", "b.xyz", "more/c.npz", "more/d.off"]
    with pytest.raises(DataError, match="none of the 1 clouds can be used"):
        predict_files(most_run, [clouds / "bad.npy"], tmp_path / "none", skip_bad=True)


def test_files_that_a_shell_lists(most_run: Path, clouds: Path, tmp_path: Path) -> None:
    files = [str(clouds / "a.npy"), str(clouds / "b.xyz")]
    command = ["eval", str(most_run), "--input", *files, "evaluation.batch_size=1", "--json"]
    result = CliRunner().invoke(app, [*command, "--predictions", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert [entry["file"] for entry in json.loads(result.stdout)["predictions"]] == ["a.npy", "b.xyz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere", "--predictions", "out"], "nowhere: no such file or folder"),
        (["--input", "empty", "--predictions", "out"], "empty: holds no clouds"),
        (["--input", "clouds"], "go together"),
        (["--predictions", "out"], "go together"),
        (["--picture"], "only with --input"),
        (["--input", "clouds", "--predictions", "clouds"], "clouds exists"),
        (["--input", "clouds", "--predictions", "clouds/out"], "would be taken for clouds"),
        (["--input", "clouds", "--predictions", "out", "--category", "cube"], "is not told what a cloud is"),
    ],
)
def test_mistakes_in_the_arguments(
    most_run: Path, clouds: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(clouds.parent)
    Path("empty").mkdir()
    result = CliRunner().invoke(app, ["eval", str(most_run), *arguments])
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_pictures_without_matplotlib(most_run: Path, clouds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="--picture needs matplotlib"):
        predict_files(most_run, [clouds], clouds.parent / "out", picture=True)


def test_labels_of_points_at_the_resolution_of_the_input(parts_run: Path, tmp_path: Path) -> None:
    points = np.random.default_rng(3).uniform(-1, 1, (700, 3)) * [1, 1, 0.2] + [1e6, 0, 0]
    (tmp_path / "plate").mkdir()
    np.save(tmp_path / "plate/one.npy", points)
    predict_files(parts_run, [tmp_path / "plate"], tmp_path / "out")
    stored = np.load(tmp_path / "out/one.npz")
    np.testing.assert_array_equal(stored["points"], points)
    assert list(stored["part_names"]) == ["lower", "upper", "left", "right"]
    assert set(np.unique(stored["point_labels"])) <= {2, 3}  # the parts of a plate
    assert stored["probability"].min() >= 0.5 - 1e-6  # the better of two
    labels = stored["point_labels"]
    head, _, rows = (tmp_path / "out/one.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 700\nproperty double x\n" in head
    kinds = [("xyz", "<f8", 3), ("color", "u1", 3), ("label", "<i4")]
    np.testing.assert_array_equal(np.frombuffer(rows, kinds)["xyz"], points)
    np.testing.assert_array_equal(np.frombuffer(rows, kinds)["label"], labels)
    entry = record(tmp_path / "out")["predictions"][0]
    assert (entry["category"], entry["points"]) == ("plate", 700)
    assert list(entry["points_by_label"].values()) == np.bincount(labels, minlength=4).tolist()


def test_points_take_the_label_of_the_nearest_that_the_model_saw(parts_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.random.default_rng(3).uniform(-1, 1, (400, 3)))
    predictor = TrainedModel.load(parts_run).predictor()
    (found,) = predictor.predict([predictor.from_file(tmp_path / "one.npy", "one")])
    distances = np.linalg.norm(found.cloud.whole[:, None] - found.cloud.drawn[None], axis=2)
    nearest = distances.argmin(axis=1)
    np.testing.assert_array_equal(found.nearest, nearest)
    np.testing.assert_array_equal(found.labels, found.seen.argmax(axis=1)[nearest])
    np.testing.assert_array_equal(found.probabilities, found.seen[nearest])
    assert found.cloud.drawn.shape == (128, 3)


def test_what_an_object_is_has_to_be_said(parts_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.random.default_rng(3).uniform(-1, 1, (200, 3)))
    with pytest.raises(UsageError, match=r"--category: what is one\.npy") as caught:
        predict_files(parts_run, [tmp_path / "one.npy"], tmp_path / "out")
    assert "cube, plate" in str(caught.value.hint)
    with pytest.raises(UsageError, match="unknown category 'ball'"):
        predict_files(parts_run, [tmp_path / "one.npy"], tmp_path / "out", category="ball")
    np.savetxt(tmp_path / "one.xyz", np.zeros((5, 3)))
    both = [tmp_path / "one.npy", tmp_path / "one.xyz"]
    with pytest.raises(UsageError, match=r"one\.npy and one\.xyz differ only in their suffix"):
        predict_files(parts_run, both, tmp_path / "out", category="cube")
