"""Several runs in one command: streams, exit codes, and what is shown before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from geopeft_cli.cli.app import app


def finetune(*arguments: object) -> Result:
    return CliRunner(env={"TERM": "dumb"}).invoke(app, ["finetune", *map(str, arguments)])


@pytest.fixture
def lora(tiny_recipe: Path, tmp_path: Path) -> Path:
    """The tiny recipe with another name and method."""
    path = tmp_path / "lora.yaml"
    path.write_text(f"base: {tiny_recipe}\nname: lora\nmethod: {{name: lora}}\n")
    return path


def test_the_table_is_on_stdout(tiny_recipe: Path, lora: Path, tmp_path: Path, stub_runs: Any) -> None:
    command = (tiny_recipe, "training.epochs=1", lora, "--seeds", "0,1", "--output", tmp_path / "out")
    result = finetune(*command)
    assert result.exit_code == 0
    heading, *lines = result.stdout.splitlines()
    assert heading.split()[:4] == ["recipe", "runs", "test", "accuracy"]
    assert [line.split()[:7] for line in lines[:2]] == [
        [name, "2", "of", "2", "80.50", "±", "0.71"] for name in ("tiny", "lora")
    ]
    assert lines[2].startswith("protocol A: shapes, 128 points")
    assert lines[3:] == [f"tables: {tmp_path / 'out/comparison.html'}, .tex and .csv"]
    assert result.stderr.splitlines()[:2] == ["run 1 of 4: tiny, seed 0", "  accuracy 80.00 %"]

    again = finetune(*command, "--resume")
    assert (again.exit_code, again.stdout, again.stderr) == (0, result.stdout, "")
    assert len(stub_runs.started) == 4


def test_a_failed_run_ends_with_1_and_is_named(
    tiny_recipe: Path, tmp_path: Path, stub_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub_runs.troubles["tiny/seed0"] = lambda: "the loss is nan"
    result = finetune(tiny_recipe, "--seeds", "0-1")
    assert result.exit_code == 1
    assert "1 of 2, 1 failed" in result.stdout
    assert "failed: tiny, seed 0: the loss is nan\n" in result.stdout
    assert (tmp_path / "runs/comparison/comparison.html").is_file()


def test_ctrl_c_shows_what_is_done(tiny_recipe: Path, tmp_path: Path, stub_runs: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stub_runs.troubles["tiny/seed1"] = interrupt
    result = finetune(tiny_recipe, "--seeds", "0-1", "--output", tmp_path / "out")
    assert result.exit_code == 130
    assert "tiny    1 of 2" in result.stdout
    assert result.stderr.splitlines()[-2:] == ["the same command goes on", "interrupted"]


def test_dry_run_shows_recipes_protocols_and_runs(
    tiny_recipe: Path, lora: Path, tmp_path: Path, stub_runs: Any
) -> None:
    options = ("--seeds", "4,5", "--output", tmp_path / "out")
    finetune(tiny_recipe, "--seeds", "5", "--output", tmp_path / "out")
    result = finetune(tiny_recipe, lora, *options, "--dry-run")
    assert result.exit_code == 0, result.stderr
    documents = list(yaml.safe_load_all(result.stdout))
    assert [(recipe["name"], recipe["seed"]) for recipe in documents] == [("tiny", 4), ("lora", 4)]
    assert "tiny: shapes, 128 points" in result.stderr
    assert "  2 runs: seed 4; seed 5 (done)\n" in result.stderr
    assert result.stderr.count("nothing was trained") == 2
    assert stub_runs.started == ["tiny/seed5"]


@pytest.mark.parametrize("wrong", ["0,x", "3-1", "", "1,,2", "-1", "1-"])
def test_lists_of_numbers(tiny_recipe: Path, wrong: str) -> None:
    result = finetune(tiny_recipe, f"--seeds={wrong}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: --seeds {wrong}: " in result.stderr
    assert result.stderr.endswith("is no whole number and no range\nSuch as 0,1,2 or 0-9.\n")


def test_a_list_names_each_number_once(tiny_recipe: Path, tmp_path: Path, stub_runs: Any) -> None:
    assert finetune(tiny_recipe, "--seeds", "7, 0-2,1", "--output", tmp_path / "out").exit_code == 0
    assert stub_runs.started == [f"tiny/seed{seed}" for seed in (7, 0, 1, 2)]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.lr", "argument 'training.lr': is not of the form key=value"),
        ("quickstar", "error: quickstar: no such file, and no shipped recipe of that name. Did you mean 'quickstart'?"),
    ],
)
def test_a_word_is_a_value_or_a_recipe(tiny_recipe: Path, word: str, message: str) -> None:
    result = finetune(tiny_recipe, word)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, message)
