"""Predictions of scenes without labels, as files and in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import geopeft_cli
from geopeft_cli.cli.app import app
from geopeft_cli.data.inputs import result_stems
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.verbs.predict import predict_files, predict_split
from geopeft_cli.verbs.trained import TrainedModel

Halls = Callable[[int], dict[str, np.ndarray]]
FRAGMENTS = ["evaluation.voting=fragments"]


@pytest.fixture
def table(halls: Halls) -> np.ndarray:
    """x y z red green blue of a scene."""
    fields = halls(7)
    return np.hstack([fields["coordinates"].astype(np.float64).round(4), fields["colors"]])


@pytest.fixture(scope="module")
def model(scene_run: Path) -> TrainedModel:
    return geopeft_cli.load(scene_run)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return found


def write_every_kind(folder: Path, table: np.ndarray) -> None:
    folder.mkdir()
    np.save(folder / "npy.npy", table)
    np.savez(folder / "npz.npz", xyz=table[:, :3], RGB=table[:, 3:], label=np.full(len(table), 99))
    np.savetxt(folder / "txt.txt", table, fmt="%.4f")
    names = ("x", "y", "z", "red", "green", "blue")
    lines = [" ".join(f"{value:.4f}" for value in row) for row in table]
    properties = [f"property double {name}" for name in names]
    head = ["ply", "format ascii 1.0", f"element vertex {len(table)}", *properties, "end_header"]
    (folder / "ply.ply").write_text("\n".join([*head, *lines, ""]))
    kinds = [f"{word} {' '.join(6 * value)}" for word, value in (("SIZE", "8"), ("TYPE", "F"), ("COUNT", "1"))]
    size = [f"WIDTH {len(table)}", "HEIGHT 1", f"POINTS {len(table)}", "DATA ascii"]
    (folder / "pcd.pcd").write_text("\n".join(["VERSION 0.7", f"FIELDS {' '.join(names)}", *kinds, *size, *lines, ""]))


def test_a_frame_of_a_lidar(model: TrainedModel, table: np.ndarray, tmp_path: Path) -> None:
    rows = np.hstack([table[:, :3], np.full((len(table), 1), 0.5)]).astype("<f4")
    rows.tofile(tmp_path / "000123.bin")
    fields = {"coordinates": rows[:, :3], "strength": rows[:, 3]}
    found, expected = model.predict(str(tmp_path / "000123.bin")), model.predict(fields)
    np.testing.assert_array_equal(found.labels[0], expected.labels[0])
    (tmp_path / "000124.bin").write_bytes(b"12345")
    with pytest.raises(DataError, match="5 bytes are no whole number of values"):
        model.predict(str(tmp_path / "000124.bin"))


def test_every_kind_of_file(scene_run: Path, model: TrainedModel, table: np.ndarray, tmp_path: Path) -> None:
    write_every_kind(tmp_path / "in", table)
    result = predict_files(scene_run, [tmp_path / "in"], tmp_path / "out")
    expected = model.predict(table)
    found = record(tmp_path / "out")
    assert result.clouds == 5
    assert [row["file"] for row in found["predictions"]] == ["npy.npy", "npz.npz", "pcd.pcd", "ply.ply", "txt.txt"]
    for name in ("npy", "npz", "txt", "ply", "pcd"):
        stored = np.load(tmp_path / f"out/{name}.npz")
        np.testing.assert_array_equal(stored["points"], table[:, :3])
        np.testing.assert_array_equal(stored["point_labels"], expected.labels[0])
        np.testing.assert_allclose(stored["probability"], expected.probabilities[0].max(axis=1), atol=1e-6)
    assert found["prepared"] == {"scale": 1.0, "grid": 0.1, "features": ["coordinates", "colors", "normals"]}
    assert (found["voting"], found["skipped"]) == ("none", [])
    counts = np.bincount(expected.labels[0], minlength=3).tolist()
    for row in found["predictions"]:
        assert (row["points"], row["filled"]) == (150, {"normals": "zeros"})
        assert row["points_by_label"] == dict(zip(("floor", "wall", "table"), counts, strict=True))
    assert (tmp_path / "out/predictions.csv").read_text().splitlines()[0] == "file,points,floor,wall,table"


def test_survey_coordinates_are_written_as_they_are(
    scene_run: Path, model: TrainedModel, table: np.ndarray, tmp_path: Path
) -> None:
    far = table + np.array([512_345.0, 5_412_345.0, 100, 0, 0, 0])
    np.save(tmp_path / "far.npy", np.vstack([far, np.full(6, np.nan)]))
    predict_files(scene_run, [tmp_path / "far.npy"], tmp_path / "out")
    head, _, rows = (tmp_path / "out/far.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 150\nproperty double x\n" in head
    written = np.frombuffer(rows, [("xyz", "<f8", 3), ("color", "u1", 3), ("label", "<i4")])
    np.testing.assert_array_equal(written["xyz"], far[:, :3])
    np.testing.assert_array_equal(written["label"], model.predict(far).labels[0])


@pytest.mark.parametrize("overrides", [[], FRAGMENTS])
def test_the_scenes_of_a_split_beside_the_figures(
    scene_run: Path, halls: Halls, tmp_path: Path, overrides: list[str]
) -> None:
    scaled = [*overrides, "data.scale=0.7"]
    result, predicted = predict_split(scene_run, tmp_path / "out", scaled)
    assert predicted.clouds == result.clouds == 2
    assert [row["file"] for row in record(tmp_path / "out")["predictions"]] == ["test/hall_2.npz", "test/hall_3.npz"]
    right = []
    for seed in (2, 3):
        stored, fields = np.load(tmp_path / f"out/test/hall_{seed}.npz"), halls(seed)
        np.testing.assert_array_equal(stored["points"], fields["coordinates"])
        right.append(stored["point_labels"] == fields["label"])
    figures = result.votes.figures["fragments"] if result.votes else result.metrics
    assert 100 * np.mean(right) == pytest.approx(figures["accuracy"])
    alone = geopeft_cli.load(scene_run, scaled).predict(halls(3))
    np.testing.assert_array_equal(stored["point_labels"], alone.labels[0])
    np.testing.assert_allclose(stored["probability"], alone.probabilities[0].max(axis=1), atol=1e-6)


def test_fragments_let_points_of_a_voxel_differ(scene_run: Path, model: TrainedModel, table: np.ndarray) -> None:
    one = model.predict(table).probabilities[0]
    np.testing.assert_array_equal(one[:50], one[100:])
    voted = geopeft_cli.load(scene_run, FRAGMENTS)
    several = voted.predict(table).probabilities[0]
    assert np.abs(several[:50] - several[100:]).max() > 1e-4
    np.testing.assert_allclose(several.sum(axis=1), 1, atol=1e-5)
    assert voted.predictor().record() == {**model.predictor().record(), "voting": "fragments", "views": "single"}


def test_what_programs_hold(model: TrainedModel, table: np.ndarray, tmp_path: Path) -> None:
    coordinates, colors = table[:, :3], table[:, 3:].astype(np.float32)
    scene = Scene("hall", coordinates, np.full(150, 2), colors, np.zeros((150, 3), np.float32))
    np.save(tmp_path / "one.npy", table)
    given = [table, tmp_path / "one.npy", scene, {"points": coordinates, "rgb": colors}]
    found = model.predict(given)
    assert found.names == ("scene 0", str(tmp_path / "one.npy"), "hall", "scene 3")
    for labels, probabilities in zip(found.labels, found.probabilities, strict=True):
        assert (labels.shape, probabilities.shape) == ((150,), (150, 3))
        np.testing.assert_array_equal(probabilities, found.probabilities[0])
    for one in (scene, given[3]):
        np.testing.assert_array_equal(model.predict(one).probabilities[0], found.probabilities[0])
    without = model.predict(coordinates)
    assert np.abs(without.probabilities[0] - found.probabilities[0]).max() > 1e-4
    with pytest.raises(UsageError, match="is not told what a cloud is"):
        model.predict(table, "office")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((0, 3)), r"scene 0: is float64 of shape \(0, 3\)\nA scene is"),
        (np.zeros((4, 5)), "scene 0: has 5 columns and no names"),
        (np.array([[0, 0, 0], [np.nan, 0, 0]]), "scene 0: holds values that are not finite"),
        ({"colors": np.zeros((4, 3))}, "scene 0: has no x, y, z"),
        (np.array([[0, 0, 0], [1e9, 0, 0]]), "scene 0: scene 0 of the batch reaches voxel number"),
        (np.array([[0, 0, 0], [1e300, 0, 0]]), "scene 0: a scene of .* is too large to number"),
        (np.full((4, 6), 0.5), "scene 0: colors from 0.5 to 0.5 look as if scaled"),
    ],
)
def test_what_is_no_scene(model: TrainedModel, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.predict(given)


def test_a_scene_that_lacks_what_the_model_reads(scene_run: Path, table: np.ndarray) -> None:
    model = geopeft_cli.load(scene_run, ["data.absent.colors=none"])
    with pytest.raises(DataError, match="scene 0: has no colors, which the model reads"):
        model.predict(table[:, :3])


def test_bad_files_are_named_and_skipped_on_request(scene_run: Path, table: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "good.npy", table)
    np.savez(folder / "bad.npz", colors=table[:, 3:])
    (folder / "mesh.off").write_text("OFF\n")
    with pytest.raises(DataError, match=r"bad\.npz: has no x, y, z"):
        predict_files(scene_run, [folder], tmp_path / "out")
    command = ["eval", str(scene_run), "--input", str(folder), "--predictions", str(tmp_path / "out"), "--skip-bad"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert "1 predicted" in result.stdout
    assert "left out files that are no scenes: 1 .off" in result.stderr
    assert [one["file"] for one in record(tmp_path / "out")["skipped"]] == ["bad.npz"]


def test_the_command_without_input(scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []
    monkeypatch.setattr("geopeft_cli.verbs.prediction_files.draw_cloud", lambda *arguments: drawn.append(arguments))
    command = ["eval", str(scene_run), *FRAGMENTS, "--predictions", str(tmp_path / "out"), "--picture"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("test, 2 scenes: accuracy"))
    assert lines[start + 1] == "voting: none, one view of each scene"
    assert lines[start + 2] == "voting: fragments, single (1 view), sum of the probabilities"
    assert lines[-1] == f"{tmp_path / 'out'}: 2 predicted"
    assert sorted(path.name for path in (tmp_path / "out/test").glob("hall_2.*")) == ["hall_2.npz", "hall_2.ply"]
    assert [(path.name, points.shape, up) for path, points, _, _, _, up in drawn] == [
        ("hall_2.png", (150, 3), "z"),
        ("hall_3.png", (150, 3), "z"),
    ]
    refused = CliRunner().invoke(app, [*command, "--skip-bad"])
    assert (refused.exit_code, "only with --input" in refused.stderr) == (2, True)


def test_labels_of_given_scenes_do_not_count(model: TrainedModel, table: np.ndarray) -> None:
    scene = Scene("hall", table[:, :3], np.full(150, 50), table[:, 3:].astype(np.float32))
    kept = replace(scene, kept=np.ones(150, bool), rows=np.arange(150))
    np.testing.assert_array_equal(model.predict(kept).probabilities[0], model.predict(table).probabilities[0])


def test_results_of_scenes_stay_in_the_folder() -> None:
    assert result_stems(["Area_5/office_1", "/../x.las", "hall.b"]) == ["Area_5/office_1", "x", "hall.b"]
    with pytest.raises(UsageError, match=r"results of scenes a\.ply and a\.txt would have one name"):
        result_stems(["a.ply", "a.txt"])
