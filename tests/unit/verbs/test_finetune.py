"""A whole run: what it leaves, that it repeats bit for bit, and that it goes on after every kind of end."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geopeft_cli.adapters.directory import read_adapter
from geopeft_cli.errors import GeopeftError, TrainingError, UsageError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.reports.progress import RunListener
from geopeft_cli.reports.records import read_records
from geopeft_cli.verbs.finetune import Run, finetune, next_verbs
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.preparing import prepare

PROJECT = Path(__file__).resolve().parents[3]
RANDOM = [
    "method={name: lora, rank: 2, dropout: 0.1}",
    "data.augment=[scale_translate, rotate_y]",
    "backbone.drop_path=0.2",
    "training.epochs=4",
    "training.groups=[{match: '*cls*', lr_scale: 3, weight_decay: 0.1}]",
]
Interrupt = Callable[[int], None]


def weights(run: Path | Run) -> bytes:
    folder = run.folder if isinstance(run, Run) else run
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


def epochs(folder: Path) -> list[int]:
    return [record["epoch"] for record in read_records(folder / "metrics.jsonl") if "epoch" in record]


@pytest.fixture(scope="module")
def reference(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with everything that is random switched on; not to be changed."""
    return finetune(tiny_recipe, RANDOM, tmp_path_factory.mktemp("runs") / "reference").folder


@pytest.fixture
def interrupt_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupt]:
    """``interrupt_in(epoch)``: Ctrl-C in the first step of an epoch, once."""

    def arrange(epoch: int) -> None:
        before = RunListener.step_done
        started: list[int] = []

        def starts(_: RunListener, epoch: int, *__: Any) -> None:
            started.append(epoch)

        def step(*_: Any) -> None:
            if started[-1] == epoch:
                monkeypatch.setattr(RunListener, "step_done", before)
                raise KeyboardInterrupt

        monkeypatch.setattr(RunListener, "epoch_starts", starts)
        monkeypatch.setattr(RunListener, "step_done", step)

    yield arrange
    monkeypatch.undo()


def test_what_a_run_leaves(most_run: Path) -> None:
    assert sorted(path.name for path in most_run.iterdir()) == [
        "adapter",
        "checkpoints",
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
    ]
    *records, last = read_records(most_run / "metrics.jsonl")
    assert epochs(most_run) == [0, 1]
    assert all({"lr", "train_loss", "train_accuracy", "seconds_per_step", "validation"} <= set(r) for r in records)
    assert last["finished"] is True
    assert last["adapter_bytes"] == len(weights(most_run))
    assert last["peak_memory_bytes"] > 0
    manifest = read_adapter(most_run / "adapter").manifest
    assert manifest is not None
    assert manifest.metrics == {"test": last["test"], "validation": last["validation"]}
    assert manifest.trainable_parameters == last["trainable_parameters"]
    assert manifest.selection == {"epoch": 1, "text": "last of 2 epochs"}


def test_the_same_recipe_gives_the_same_bytes(tiny_recipe: Path, reference: Path, tmp_path: Path) -> None:
    again = finetune(tiny_recipe, RANDOM, tmp_path / "again")
    other = finetune(tiny_recipe, [*RANDOM, "seed=1"], tmp_path / "other")
    assert weights(again) == weights(reference)
    assert weights(other) != weights(reference)


def test_the_resolved_recipe_gives_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    assert weights(finetune(reference / "recipe.yaml", (), tmp_path / "again")) == weights(reference)


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny_recipe: Path,
    reference: Path,
    tmp_path: Path,
    interrupt_in: Interrupt,
    caplog: pytest.LogCaptureFixture,
    epoch: int,
) -> None:
    folder = tmp_path / "run"
    interrupt_in(epoch)
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING, "geopeft"):
        finetune(tiny_recipe, RANDOM, folder)
    assert caplog.messages == [f"go on with geopeft finetune {folder / 'recipe.yaml'} --output {folder} --resume"]
    assert not (folder / "adapter").exists()
    assert epochs(folder) == list(range(epoch))
    run = finetune(folder / "recipe.yaml", (), folder, resume=True)
    assert weights(run) == weights(reference)
    assert epochs(folder) == [0, 1, 2, 3]
    losses = [[r.get("train_loss") for r in read_records(path / "metrics.jsonl")] for path in (folder, reference)]
    assert losses[0] == losses[1]


def test_with_rare_checkpoints_more_is_done_again(tiny_recipe: Path, tmp_path: Path, interrupt_in: Interrupt) -> None:
    overrides = ["training.epochs=4", "training.checkpoint_every=2"]
    interrupt_in(3)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_recipe, overrides, tmp_path / "run")
    assert epochs(tmp_path / "run") == [0, 1, 2]
    finetune(tiny_recipe, overrides, tmp_path / "run", resume=True)
    assert epochs(tmp_path / "run") == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_run_goes_on_to_the_same_bytes(tiny_recipe: Path, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import os, signal, sys; from geopeft_cli.reports.progress import RunListener; "
        "from geopeft_cli.verbs.finetune import finetune; from pathlib import Path; steps = []; "
        "RunListener.step_done = lambda *_: steps.append(0) or len(steps) == 6 and os.kill(os.getpid(), 9); "
        "finetune(sys.argv[1], sys.argv[3:], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tiny_recipe), str(folder), *RANDOM]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(command, env=environment, timeout=120, check=False, capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert epochs(folder) == [0, 1]
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 2, "train_')  # as a kill in the middle of a write would leave it
    run = finetune(tiny_recipe, RANDOM, folder, resume=True)
    assert weights(run) == weights(reference)
    assert epochs(folder) == [0, 1, 2, 3]


def test_a_run_whose_adapter_could_not_be_saved_only_saves_it(
    tiny_recipe: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("geopeft_cli.adapters.tensors.save_file", fail)
        with pytest.raises(GeopeftError, match="adapter could not be written: No space left on device"):
            finetune(tiny_recipe, RANDOM, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "metrics.jsonl", "recipe.yaml"]
    run = finetune(tiny_recipe, RANDOM, tmp_path / "run", resume=True)
    assert weights(run) == weights(reference)
    assert run.summary["seconds"] > 0


def test_resume_with_another_recipe_names_what_differs(tiny_recipe: Path, most_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(most_run, tmp_path / "run"))
    with pytest.raises(UsageError) as caught:
        finetune(tiny_recipe, ["training.lr=0.5", "method.blocks=2", "seed=4"], folder, resume=True)
    assert caught.value.message == (
        f"{folder} was started with another recipe: seed, method.blocks, training.lr differ"
    )


def test_resume_with_an_edited_recipe_is_seen(most_run: Path, tmp_path: Path) -> None:
    """The recipe in the run folder is the user's to read, not to edit: the state remembers what it was."""
    folder = Path(shutil.copytree(most_run, tmp_path / "run"))
    shutil.rmtree(folder / "adapter")
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(UsageError, match="was started with another recipe"):
        finetune(recipe, (), folder, resume=True)


def test_resume_of_a_finished_run(most_run: Path) -> None:
    with pytest.raises(UsageError, match=f"^{most_run} is finished\nMeasure it with geopeft eval {most_run}"):
        finetune(most_run / "recipe.yaml", (), most_run, resume=True)


def test_resume_in_a_folder_of_something_else(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(UsageError, match="is not a run"):
        finetune(tiny_recipe, (), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_resume_where_nothing_has_begun_begins(tiny_recipe: Path, tmp_path: Path, most_run: Path) -> None:
    assert weights(finetune(tiny_recipe, (), tmp_path / "run", resume=True)) == weights(most_run)


@pytest.mark.parametrize(("select", "mark"), [("best_validation", "validation"), ("best_test", "TEST")])
def test_a_selection_is_recorded_wherever_its_figure_is(
    tiny_recipe: Path, tmp_path: Path, select: str, mark: str
) -> None:
    run = finetune(tiny_recipe, [f"training.select={select}", "training.epochs=3"], tmp_path / "run")
    manifest = read_adapter(run.folder / "adapter").manifest
    assert manifest is not None
    best = manifest.selection["epoch"]
    split = mark.lower()
    scores = [r[split]["accuracy"] for r in read_records(run.folder / "metrics.jsonl") if "epoch" in r]
    assert best == scores.index(max(scores))
    assert run.selection.startswith(f"epoch {best + 1} of 3, best on the {mark} split ({max(scores):.2f} %)")
    assert ("not an unbiased figure" in run.selection) is (select == "best_test")
    assert manifest.selection["text"] == run.summary["selection"] == run.selection
    assert run.metrics[split]["accuracy"] == pytest.approx(max(scores))
    card = (run.folder / "adapter/README.md").read_text()
    assert run.selection in card
    assert f"| {split} (the weights were chosen on it) | accuracy |" in card


@pytest.mark.filterwarnings("default")
def test_tensorboard_by_option(tiny_recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = finetune(tiny_recipe, ["training.tensorboard=true", "training.epochs=1"], tmp_path / "run")
    assert any("tfevents" in path.name for path in (run.folder / "tensorboard").iterdir())


def test_a_batch_of_one_cloud_is_refused_before_anything_is_made(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training\.batch_size: 1 is one cloud"):
        finetune(tiny_recipe, ["training.batch_size=1"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    finetune(tiny_recipe, ["training.batch_size=1", "task.head=linear", "training.epochs=1"], tmp_path / "run")


def test_a_diverged_run_says_so_and_can_go_on(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch"):
        finetune(tiny_recipe, ["training.lr=1e30", "training.clip_norm=null", "training.epochs=3"], tmp_path / "run")
    assert not (tmp_path / "run/adapter").exists()


def test_half_precision_runs(tiny_recipe: Path, tmp_path: Path) -> None:
    run = finetune(tiny_recipe, ["training.precision=bf16", "training.epochs=1"], tmp_path / "run")
    assert 0 < read_records(run.folder / "metrics.jsonl")[0]["train_loss"] < 10


def test_the_time_of_a_resumed_run_counts_all_epochs(
    tiny_recipe: Path, tmp_path: Path, interrupt_in: Interrupt
) -> None:
    interrupt_in(1)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_recipe, (), tmp_path / "run")
    began = time.perf_counter()
    run = finetune(tiny_recipe, (), tmp_path / "run", resume=True)
    per_epoch = [record["seconds"] for record in read_records(run.folder / "metrics.jsonl") if "epoch" in record]
    assert run.summary["seconds"] == pytest.approx(sum(per_epoch))
    assert len(per_epoch) == 2
    assert run.summary["wall_seconds"] <= time.perf_counter() - began


@pytest.mark.parametrize(
    ("method", "verbs"),
    [
        ("{name: most, blocks: 4}", ("eval", "merge", "export", "inspect")),
        ("{name: adapter}", ("eval", "export", "inspect")),
    ],
)
def test_only_what_can_be_done_is_advised(tiny_recipe: Path, method: str, verbs: tuple[str, ...]) -> None:
    _, experiment = prepare(load_recipe(tiny_recipe, [f"method={method}"]))
    assert next_verbs(experiment.model) == verbs


def test_models_of_scenes_are_not_exported(scene_run: Path) -> None:
    assert next_verbs(open_trained(scene_run).model) == ("eval", "inspect")
