"""Data that is missing, empty, unreadable or of other classes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.reports.records import read_records

Refused = Callable[..., str]


def of(clouds: Path, **values: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in values.items())
    return f"data={{format: folder, root: {clouds}, points: 128{more}}}"


def test_the_clouds_are_good_to_begin_with(tiny_recipe: Path, clouds: Path, tmp_path: Path) -> None:
    arguments = ["finetune", str(tiny_recipe), of(clouds), "training.epochs=1", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize("data", ["{format: folder, root: gone}", "{format: packed, path: gone.npz}"])
def test_a_path_that_does_not_exist(refused: Refused, tiny_recipe: Path, tmp_path: Path, data: str) -> None:
    message = refused("finetune", tiny_recipe, f"data={data}", code=2)
    assert str(tmp_path / "gone") in message
    assert len(message.splitlines()) == 2


def test_an_empty_class_folder(refused: Refused, tiny_recipe: Path, clouds: Path) -> None:
    (clouds / "void").mkdir()
    message = refused("finetune", tiny_recipe, of(clouds), code=1)
    assert f"class 'void': no clouds in {clouds / 'void'}" in message


def test_a_folder_without_classes(refused: Refused, tiny_recipe: Path, clouds: Path) -> None:
    for folder in clouds.iterdir():
        shutil.rmtree(folder)
    assert str(clouds) in refused("finetune", tiny_recipe, of(clouds), code=1)


def test_a_class_with_too_few_clouds(refused: Refused, tiny_recipe: Path, clouds: Path) -> None:
    for index in range(1, 6):
        (clouds / "cube" / f"{index}.xyz").unlink()
    message = refused("finetune", tiny_recipe, of(clouds), code=1)
    assert "class 'cube' has 1 clouds, too few for 2 parts" in message


@pytest.mark.parametrize("content", ["1 2\n", "hello\n", "", "nan nan nan\n" * 5])
def test_an_unreadable_cloud_stops_the_run_by_name(
    tiny_recipe: Path, clouds: Path, tmp_path: Path, content: str
) -> None:
    """Clouds are read when they are needed, so that the run has begun; what it leaves can go on."""
    (clouds / "stick/3.xyz").write_text(content)
    output = tmp_path / "run"
    arguments = ["finetune", str(tiny_recipe), of(clouds), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert "stick/3.xyz" in result.stderr
    assert not (output / "adapter").exists()
    assert not list((output / "checkpoints").glob("*")) if (output / "checkpoints").exists() else True

    shutil.copy(clouds / "stick/2.xyz", clouds / "stick/3.xyz")
    again = CliRunner().invoke(app, [*arguments, "--resume"])
    assert again.exit_code == 0, again.stderr


def test_an_unreadable_cloud_is_skipped_by_option_and_named(tiny_recipe: Path, clouds: Path, tmp_path: Path) -> None:
    (clouds / "stick/3.xyz").write_text("1 2\n")
    output = tmp_path / "run"
    arguments = ["finetune", str(tiny_recipe), of(clouds, on_error="skip"), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("warning: skipped clouds that cannot be read: 1\n")
    assert "stick/3.xyz" in result.stderr
    assert read_records(output / "metrics.jsonl")[-1]["finished"] is True


def test_other_classes_than_those_of_the_adapter(refused: Refused, adapter: Path, clouds: Path) -> None:
    message = refused("eval", adapter, of(clouds), code=1)
    assert f"the data does not have the classes that {adapter} was trained on: it has 2 classes, the adapter" in message


def test_the_same_number_of_classes_under_other_names(
    refused: Refused, tiny_recipe: Path, clouds: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["finetune", str(tiny_recipe), of(clouds), "training.epochs=1", "--output", str(run)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (clouds / "cube").rename(clouds / "ball")
    assert "it has 'ball' where the adapter has 'cube'" in refused("eval", run, of(clouds), code=1)


def test_a_head_for_other_classes(
    refused: Refused, tiny_recipe: Path, lora_run: Path, clouds: Path, tmp_path: Path
) -> None:
    base = tmp_path / "merged.safetensors"
    assert CliRunner().invoke(app, ["merge", str(lora_run), "--output", str(base)]).exit_code == 0
    overrides = [of(clouds), f"backbone.checkpoint={base}", "task.head_from=checkpoint"]
    message = refused("finetune", tiny_recipe, *overrides, code=1)
    assert "classes that does not fit the task's\nUse task.head_from: fresh" in message


def test_a_packed_file_with_one_training_cloud(refused: Refused, tiny_recipe: Path, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(2, 140, 3)).astype(np.float32)
    is_test = np.array([False, True])
    np.savez(tmp_path / "p.npz", points=points, label=np.zeros(2, int), classes=np.array(["a"]), is_test=is_test)
    message = refused("finetune", tiny_recipe, "data={format: packed, path: p.npz, split: {by: field}}", code=2)
    assert "training.batch_size: 1 is one cloud" in message
