"""The training loop on clouds that are given: steps, selection, failure, and going on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import CheckpointError, TrainingError, UsageError
from geopeft_cli.training.checkpoints import LAST, load_progress, save_progress
from geopeft_cli.training.precision import choose_device
from geopeft_cli.training.schedule import OwnGroup

NewBench = Callable[[], Any]


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_training_learns_and_tells(bench: NewBench) -> None:
    run = bench()
    before = run.collect()
    outcome = run.train(size=4, epochs=8)
    notes = run.notes
    assert notes.epochs == [(epoch, 8, 3) for epoch in range(8)]
    assert [record["epoch"] for record in notes.records] == list(range(8))
    assert [record["lr"] for record in notes.records] == sorted((r["lr"] for r in notes.records), reverse=True)
    assert {rate for _, _, rate in notes.steps[:3]} == {0.02}
    first = notes.records[0]
    assert first["train_loss"] == pytest.approx(sum(loss for loss, _, _ in notes.steps[:3]) / 3)
    assert first["train_accuracy"] == pytest.approx(sum(accuracy for _, accuracy, _ in notes.steps[:3]) / 3)
    assert notes.records[-1]["train_loss"] < 0.8 * first["train_loss"]
    assert largest_difference(outcome.tensors, before) > 0.01
    assert largest_difference(outcome.tensors, run.collect()) == 0
    assert (outcome.epoch, outcome.score) == (7, None)
    assert "validation" not in first
    assert "test" not in first


def test_the_published_schedule_runs_one_epoch_more(bench: NewBench) -> None:
    run = bench()
    assert run.train(epochs=2, schedule="cosine_lag").epoch == 2
    assert len(run.notes.records) == 3


def test_a_group_trains_at_its_own_rate(bench: NewBench) -> None:
    head = "cls_head_finetune.0.weight"
    runs = [bench() for _ in range(2)]
    before = runs[0].collect()
    plain, scaled = (
        run.train(epochs=1, min_lr=0.0, groups=own).tensors
        for run, own in zip(runs, ((), (OwnGroup("cls_head*", 0.5, 0.0),)), strict=True)
    )
    # the first step of Adam is the rate times the sign of the gradient, beside the decay
    assert (scaled[head] - before[head]).abs().max() == pytest.approx(0.01, rel=1e-3)
    assert (plain[head] - before[head]).abs().max() == pytest.approx(0.02, rel=1e-2)
    assert all(torch.equal(scaled[name], plain[name]) for name in plain if not name.startswith("cls_head"))


@pytest.mark.parametrize(("size", "accumulation"), [(6, 2), (4, 3), (4, 5)])
def test_accumulation_equals_a_large_batch(bench: NewBench, size: int, accumulation: int) -> None:
    whole, parts = bench(), bench()
    reference = whole.train(clip_norm=0.1, epochs=3)
    outcome = parts.train(size=size, accumulation=accumulation, clip_norm=0.1, epochs=3)
    assert len(parts.notes.steps) == 3 * 12 // size
    assert largest_difference(outcome.tensors, reference.tensors) < 2e-6


def test_an_incomplete_accumulation_is_a_mean_over_what_there_is(bench: NewBench) -> None:
    """Three batches, two a step: the last batch of an epoch makes a step of its own, undiminished."""
    run = bench()
    run.train(size=4, accumulation=2, epochs=1, lr=1e-12, weight_decay=0.0)
    state = load_progress(run.folder)
    assert state is not None
    moments = state.optimizer["state"]
    assert {int(moment["step"]) for moment in moments.values()} == {2}

    alone = bench()
    alone.points, alone.labels = alone.points[8:], alone.labels[8:]
    alone.train(epochs=1, lr=1e-12)
    last = load_progress(alone.folder)
    both = bench()
    both.points, both.labels = both.points[:8], both.labels[:8]
    both.train(epochs=1, lr=1e-12)
    first = load_progress(both.folder)
    assert last is not None
    assert first is not None
    for index, moment in moments.items():
        expected = 0.9 * first.optimizer["state"][index]["exp_avg"] + last.optimizer["state"][index]["exp_avg"]
        torch.testing.assert_close(moment["exp_avg"], expected, rtol=1e-3, atol=1e-7)


def test_a_second_step_takes_the_clipped_gradient(bench: NewBench) -> None:
    def moments(**plan: Any) -> dict[int, Tensor]:
        run = bench()
        run.points, run.labels = run.points[:8], run.labels[:8]
        run.train(epochs=1, lr=1e-12, **plan)
        progress = load_progress(run.folder)
        assert progress is not None
        assert {int(moment["step"]) for moment in progress.optimizer["state"].values()} == {plan["optimizer_steps"]}
        return {index: moment["exp_avg"] for index, moment in progress.optimizer["state"].items()}

    raw, clipped = moments(optimizer_steps=1, clip_norm=None), moments(optimizer_steps=1, clip_norm=1e-2)
    for index, found in moments(optimizer_steps=2, clip_norm=1e-2).items():
        torch.testing.assert_close(found, 0.9 * raw[index] + clipped[index], rtol=1e-4, atol=1e-7)


def test_clipping_bounds_the_norm_over_all_parameters(bench: NewBench) -> None:
    free, clipped = bench(), bench()
    free.train(epochs=1)
    clipped.train(epochs=1, clip_norm=1e-3)

    def norm(folder: Path) -> float:
        progress = load_progress(folder)
        assert progress is not None
        squares = [(moment["exp_avg"] / 0.1).square().sum() for moment in progress.optimizer["state"].values()]
        return math.sqrt(sum(float(square) for square in squares))

    assert norm(free.folder) > 0.1
    assert norm(clipped.folder) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_close_to_full(bench: NewBench, precision: str) -> None:
    reference, half = bench(), bench()
    reference.train(epochs=4)
    outcome = half.train(epochs=4, precision=precision)
    for record, expected in zip(half.notes.records, reference.notes.records, strict=True):
        assert record["train_loss"] == pytest.approx(expected["train_loss"], rel=0.05)
    assert half.notes.steps[0][0] != reference.notes.steps[0][0]
    assert all(tensor.dtype == torch.float32 for tensor in outcome.tensors.values() if tensor.is_floating_point())
    progress = load_progress(half.folder)
    assert progress is not None
    assert bool(progress.scaler) is (precision == "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_going_on_is_the_same_as_not_stopping(bench: NewBench, precision: str) -> None:
    whole, half = bench(), bench()
    expected = whole.train(epochs=4, size=4, precision=precision)

    class KilledError(Exception):
        pass

    def until_third() -> dict[str, Tensor]:
        if len(half.notes.records) == 2:
            raise KilledError
        return half.collect()  # type: ignore[no-any-return]

    with pytest.raises(KilledError):
        half.train(epochs=4, size=4, precision=precision, collect=until_third)
    again = bench()
    again.folder = half.folder
    found = again.train(epochs=4, size=4, precision=precision)
    assert [record["epoch"] for record in again.notes.records] == [2, 3]
    assert largest_difference(found.tensors, expected.tensors) == 0


def test_the_scale_of_the_loss_is_carried_on(bench: NewBench) -> None:
    run = bench()
    run.train(epochs=1, precision="fp16")
    progress = load_progress(run.folder)
    assert progress is not None
    progress.scaler["scale"] = 16.0  # as after many overflows
    save_progress(run.folder, progress)
    again = bench()
    again.folder = run.folder
    again.train(epochs=2, precision="fp16")
    progress = load_progress(run.folder)
    assert progress is not None
    assert progress.scaler["scale"] == 16.0


@pytest.mark.parametrize(
    ("select", "scores", "epoch", "score"),
    [
        ("last", [3.0, 9.0, 5.0], 2, None),
        ("best_validation", [3.0, 9.0, 5.0], 1, 9.0),
        ("best_test", [9.0, 9.0, 9.0], 0, 9.0),
        ("best_validation", [1.0, 2.0, 3.0], 2, 3.0),
    ],
)
def test_what_is_kept(bench: NewBench, select: str, scores: list[float], epoch: int, score: float | None) -> None:
    run, states = bench(), []

    def collect() -> dict[str, Tensor]:
        states.append(run.collect())
        return states[-1]

    outcome = run.train(epochs=3, select=select, scores=scores, collect=collect)
    assert (outcome.epoch, outcome.score) == (epoch, score)
    assert largest_difference(outcome.tensors, states[1 + epoch]) == 0  # the first is of the untrained model
    name, other = ("test", "validation") if select == "best_test" else ("validation", "test")
    assert [record[name]["accuracy"] for record in run.notes.records] == scores
    assert all(other not in record for record in run.notes.records)


def test_the_best_survives_a_resume(bench: NewBench) -> None:
    run = bench()
    with pytest.raises(StopIteration):  # the third evaluation dies
        run.train(epochs=3, select="best_validation", scores=[5.0, 9.0])
    kept = bench()
    kept.folder = run.folder
    outcome = kept.train(epochs=3, select="best_validation", scores=[7.0])
    assert (outcome.epoch, outcome.score) == (1, 9.0)
    progress = load_progress(run.folder)
    assert progress is not None
    assert progress.best is not None
    assert largest_difference(outcome.tensors, progress.best) == 0
    assert largest_difference(outcome.tensors, progress.tensors) > 0


def test_how_often_to_evaluate(bench: NewBench) -> None:
    run = bench()
    run.train(epochs=5, evaluate_every=2, scores=[1.0, 2.0, 3.0])
    watched = [record["epoch"] for record in run.notes.records if "validation" in record]
    assert watched == [1, 3, 4]  # every second, and the last in any case


def test_how_often_to_save(bench: NewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr("geopeft_cli.training.loop.save_progress", lambda _, progress: saved.append(progress.epoch))
    bench().train(epochs=5, checkpoint_every=2)
    assert saved == [2, 4, 5]


def test_a_loss_that_is_not_finite_stops_the_run_where_it_can_go_on(bench: NewBench) -> None:
    run = bench()
    run.train(epochs=4, size=4)
    run, reference = bench(), run
    clean = run.points.clone()

    def spoil() -> dict[str, Tensor]:
        if len(run.notes.records) == 1:
            run.points[5, 3] = math.nan  # a cloud of the second batch, in the third epoch
        return run.collect()  # type: ignore[no-any-return]

    with pytest.raises(TrainingError) as caught:
        run.train(epochs=4, size=4, collect=spoil)
    assert caught.value.message == "the loss is nan in epoch 2, step 1"
    assert "resumed" in str(caught.value.hint)
    again = bench()
    again.folder, again.points = run.folder, clean
    again.train(epochs=4, size=4)
    assert [record["epoch"] for record in again.notes.records] == [2, 3]
    assert largest_difference(again.collect(), reference.collect()) == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "fields"])
def test_a_damaged_state_is_named(bench: NewBench, damage: str) -> None:
    run = bench()
    run.train(epochs=1)
    path = run.folder / LAST
    content = path.read_bytes()
    if damage == "fields":
        torch.save({"epoch": 1, "surprise": 2}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read: .") as caught:
        run.train(epochs=2)
    assert "\n" not in caught.value.message
    assert caught.value.hint == "Remove it to start the run again."


def test_a_state_that_wants_to_run_code_does_not(bench: NewBench, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    run = bench()
    run.folder.mkdir()
    torch.save({"epoch": Evil()}, run.folder / LAST)
    with pytest.raises(CheckpointError):
        run.train()
    assert not (tmp_path / "ran").exists()


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert choose_device("auto", scenes=True).type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="mps is for objects"):
        choose_device("mps", scenes=True)
    with pytest.raises(UsageError, match=r"training\.device: 'cuda:77' is not on this machine: .") as caught:
        choose_device("cuda:77")
    assert "\n" not in caught.value.message
