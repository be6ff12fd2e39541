"""The product of recipes, seeds and folds: places, going on, failures, and the process of a run."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from geopeft_cli.errors import TrainingError, UsageError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.problems import RecipeError
from geopeft_cli.reports.comparison import Row
from geopeft_cli.verbs import comparison
from geopeft_cli.verbs.comparison import attempt, how_it_ended, in_own_process, plan_comparison, run_comparison
from geopeft_cli.verbs.finetune import finished

FEWSHOT = "classification/modelnet40_fewshot/point_mae_most_5way_10shot"


@pytest.fixture
def recipes(tiny_recipe: Path, tmp_path: Path) -> list[Path]:
    """Two recipes, ``tiny`` and ``lora``."""
    lora = tmp_path / "lora.yaml"
    lora.write_text(tiny_recipe.read_text().replace("name: tiny", "name: lora").replace("most, blocks: 4", "lora"))
    return [tiny_recipe, lora]


def plan(recipes: list[Path], output: Path, **options: Any) -> list[Row]:
    return plan_comparison(recipes, (), output, **{"seeds": (0, 1), **options})


def table(output: Path) -> dict[str, tuple[str, str, str]]:
    with (output / "comparison.csv").open(newline="", encoding="utf-8") as file:
        return {line["recipe"]: (line["done"], line["failed"], line["mean"]) for line in csv.DictReader(file)}


def test_every_run_has_a_place_and_a_recipe_of_its_own(recipes: list[Path], tmp_path: Path) -> None:
    rows = plan(recipes, tmp_path / "out", seeds=(3, 1))
    members = [member for row in rows for member in row.members]
    places = [member.folder.relative_to(tmp_path / "out").as_posix() for member in members]
    assert places == ["tiny/seed3", "tiny/seed1", "lora/seed3", "lora/seed1"]
    assert [(member.recipe.seed, member.recipe.method.name) for member in members[1:3]] == [(1, "most"), (3, "lora")]
    assert [row.score for row in rows] == ["accuracy", "accuracy"]
    assert not (tmp_path / "out").exists()


def test_folds_are_runs(tmp_path: Path) -> None:
    (row,) = plan_comparison([FEWSHOT], ["seed=7"], tmp_path / "out", folds=range(10))
    assert [getattr(member.recipe.data, "fold", None) for member in row.members] == list(range(10))
    assert row.members[4].folder == tmp_path / "out/modelnet40_fewshot_most/seed7_fold4"
    assert row.members[4].title == "seed 7, fold 4"


def test_without_seeds_the_recipe_says_which(recipes: list[Path], tmp_path: Path) -> None:
    rows = plan(recipes, tmp_path / "out", seeds=())
    assert [member.folder.name for row in rows for member in row.members] == ["seed0", "seed0"]


def test_everything_is_run_once(recipes: list[Path], tmp_path: Path, stub_runs: Any) -> None:
    told: list[str] = []
    run_comparison(plan(recipes, tmp_path / "out"), tmp_path / "out", told.append)
    assert told[:2] == ["run 1 of 4: tiny, seed 0", "  accuracy 80.00 %"]
    assert table(tmp_path / "out") == {"tiny": ("2", "0", "80.5"), "lora": ("2", "0", "80.5")}
    assert stub_runs.started == ["tiny/seed0", "tiny/seed1", "lora/seed0", "lora/seed1"]

    run_comparison(plan(recipes, tmp_path / "out", seeds=(1, 2)), tmp_path / "out")
    assert stub_runs.started[4:] == ["tiny/seed2", "lora/seed2"]
    assert table(tmp_path / "out") == {"tiny": ("2", "0", "81.5"), "lora": ("2", "0", "81.5")}


def test_a_failed_run_does_not_stop_the_others(recipes: list[Path], tmp_path: Path, stub_runs: Any) -> None:
    stub_runs.troubles["tiny/seed1"] = lambda: "the loss is nan"
    told: list[str] = []
    rows = plan(recipes, tmp_path / "out")
    run_comparison(rows, tmp_path / "out", told.append)
    assert "  the loss is nan" in told
    assert [(member.title, member.failure) for member in rows[0].failed] == [("seed 1", "the loss is nan")]
    assert table(tmp_path / "out") == {"tiny": ("1", "1", "80.0"), "lora": ("2", "0", "80.5")}

    stub_runs.troubles.clear()
    run_comparison(plan(recipes, tmp_path / "out"), tmp_path / "out")
    assert stub_runs.started[4:] == ["tiny/seed1"]
    assert table(tmp_path / "out")["tiny"] == ("2", "0", "80.5")


def test_ctrl_c_leaves_a_table_of_what_is_done(recipes: list[Path], tmp_path: Path, stub_runs: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stub_runs.troubles["tiny/seed1"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_comparison(plan(recipes, tmp_path / "out"), tmp_path / "out")
    assert table(tmp_path / "out") == {"tiny": ("1", "0", "80.0"), "lora": ("0", "0", "")}

    stub_runs.troubles.clear()
    run_comparison(plan(recipes, tmp_path / "out"), tmp_path / "out")
    assert stub_runs.started[2:] == ["tiny/seed1", "lora/seed0", "lora/seed1"]


def test_a_run_without_its_last_record_is_not_done(recipes: list[Path], tmp_path: Path, stub_runs: Any) -> None:
    run_comparison(plan(recipes, tmp_path / "out"), tmp_path / "out")
    (tmp_path / "out/tiny/seed0/metrics.jsonl").write_text('{"epoch": 0}\n')
    (tmp_path / "out/tiny/seed1/adapter").rmdir()
    rows = plan(recipes, tmp_path / "out")
    assert [member.summary is None for row in rows for member in row.members] == [True, True, False, False]


def test_runs_of_another_recipe_are_refused_before_anything_runs(
    recipes: list[Path], tmp_path: Path, stub_runs: Any
) -> None:
    run_comparison(plan(recipes[:1], tmp_path / "out"), tmp_path / "out")
    with pytest.raises(UsageError, match=r"tiny/seed0 was started with another recipe: training\.lr differ"):
        plan_comparison(recipes, ["training.lr=1e-2"], tmp_path / "out", (0, 1))


def test_what_cannot_be_compared(recipes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    with pytest.raises(UsageError, match=f"{recipes[0]} and {recipes[1]} have one name: same"):
        plan_comparison(recipes, ["name=same"], tmp_path / "out")
    with pytest.raises(UsageError, match="is a run, not a folder of runs"):
        plan(recipes, run)
    with pytest.raises(UsageError, match=r"lora\.yaml exists"):
        plan(recipes, recipes[1])
    with pytest.raises(RecipeError, match=r"data\.fold is for format: modelnet_fewshot, not shapes"):
        plan(recipes, tmp_path / "out", folds=(0,))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="do not go with torchrun"):
        plan(recipes, tmp_path / "out")


def test_an_attempt_says_why_it_failed(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(tiny_recipe)
    outcomes: list[str | None] = []
    for error in (TrainingError("the loss is nan", "Lower it."), MemoryError("too much")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(comparison, "run_recipe", fail)
        outcomes.append(attempt(recipe, tmp_path))
        assert ("Traceback" in capsys.readouterr().err) is isinstance(error, MemoryError)
    assert outcomes == ["the loss is nan\nLower it.", "MemoryError: too much"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "its process was killed by signal 9: memory may have run out"),
        (-11, "its process was killed by signal 11"),
        (1, "its process ended with exit code 1"),
    ],
)
def test_a_process_that_ends_without_a_word(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_a_run_ends_when_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []

    class Parent:
        def join(self) -> None:
            happened.append("gone")

    monkeypatch.setattr(comparison.multiprocessing, "parent_process", Parent)
    monkeypatch.setattr(comparison.os, "kill", lambda *arguments: happened.append(arguments))
    comparison._end_with_parent()
    assert happened == ["gone", (os.getpid(), signal.SIGTERM)]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_process_of_a_run_cleanly(tiny_recipe: Path, tmp_path: Path) -> None:
    """The run is real, in a process of its own; what it leaves goes on."""
    recipe = load_recipe(tiny_recipe, ["training.epochs=2000"])
    folder, main = tmp_path / "run", threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        deadline = time.monotonic() + 300
        while not (folder / "checkpoints/last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        in_own_process(recipe, folder)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == ["checkpoints", "checkpoints/last.pt", "metrics.jsonl", "recipe.yaml"]
    assert finished(folder) is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
