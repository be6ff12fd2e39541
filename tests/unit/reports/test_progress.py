"""Who is told how a run goes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from geopeft_cli.errors import MissingDependencyError
from geopeft_cli.reports.progress import ProgressBar, RunListener, TensorBoard
from geopeft_cli.reports.records import MetricsLog, read_records

RECORD = {"epoch": 0, "lr": 0.5, "train_loss": 1.25, "train_accuracy": 50.0, "seconds": 1.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(listener: Any, **extra: Any) -> None:
    listener.epoch_starts(0, 2, 2)
    for _ in range(2):
        listener.step_done(1.25, 50.0, 1e-3)
    listener.epoch_done({**RECORD, **extra})
    listener.close()


def test_quiet_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    drive(ProgressBar(), validation={"accuracy": 75.0})
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"validation": {"accuracy": 75.0}}, "epoch 1/2  loss 1.250  train 50.0 %  validation 75.0 %"),
        ({"test": {"accuracy": 75.0}}, "epoch 1/2  loss 1.250  train 50.0 %  test (selects) 75.0 %"),
        ({}, None),
    ],
)
def test_a_terminal_sees_a_bar_and_what_is_watched(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], line: str | None
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    drive(ProgressBar(), **extra)
    shown = terminal.getvalue()
    assert "epoch 1/2" in shown
    assert "0/4" in shown
    assert ("%  " in shown) is (line is not None)
    if line is not None:
        assert line in shown


def test_the_bar_shows_loss_accuracy_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = ProgressBar()
    bar.epoch_starts(0, 2, 2)
    assert bar._bar is not None
    bar._bar.mininterval = 0
    bar.step_done(1.25, 50.0, 1e-3)
    bar._bar.refresh()
    bar.close()
    assert all(word in terminal.getvalue() for word in ("loss=1.250", "acc=50%", "lr=1.0e-03", "1/4", "<"))


def test_a_resumed_run_counts_only_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = ProgressBar()
    bar.epoch_starts(7, 10, 5)
    bar.close()
    assert "epoch 8/10" in terminal.getvalue()
    assert "0/15" in terminal.getvalue()


@pytest.mark.filterwarnings("default")
def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    drive(RunListener(None, None, TensorBoard(tmp_path)), validation={"accuracy": 75.0})
    accumulator = events.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert set(accumulator.Tags()["scalars"]) == {
        "lr",
        "train_loss",
        "train_accuracy",
        "seconds",
        "validation/accuracy",
    }
    (event,) = accumulator.Scalars("validation/accuracy")
    assert (event.step, event.value) == (0, 75.0)


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError) as caught:
        TensorBoard(tmp_path)
    assert caught.value.hint == 'pip install "geopeft[tensorboard]"'


def test_the_log_is_written_for_every_epoch(tmp_path: Path) -> None:
    drive(RunListener(None, MetricsLog(tmp_path / "log"), None))
    assert read_records(tmp_path / "log") == [RECORD]
