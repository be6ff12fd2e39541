"""What a person sees while a run goes on, and what the log and TensorBoard are told."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from geopeft_cli.errors import MissingDependencyError
from geopeft_cli.reports.records import MetricsLog

T = TypeVar("T")


class ProgressBar:
    """A bar over all steps with epoch, loss, accuracy, rate and time left; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._quiet = not sys.stderr.isatty()
        self._epochs = 0

    def epoch_starts(self, epoch: int, epochs: int, steps: int) -> None:
        if self._bar is None:
            total = (epochs - epoch) * steps
            self._bar = tqdm(total=total, unit="step", disable=self._quiet, dynamic_ncols=True, leave=False)
        self._epochs = epochs
        self._bar.set_description(f"epoch {epoch + 1}/{epochs}")

    def step_done(self, loss: float, accuracy: float, rate: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.3f}", acc=f"{accuracy:.0f}%", lr=f"{rate:.1e}", refresh=False)
            self._bar.update()

    def epoch_done(self, record: dict[str, Any]) -> None:
        watched = next((name for name in ("validation", "test") if name in record), None)
        if self._bar is not None and watched is not None and not self._quiet:
            title = "test (selects)" if watched == "test" else watched
            self._bar.write(
                f"epoch {record['epoch'] + 1}/{self._epochs}  loss {record['train_loss']:.3f}  "
                f"train {record['train_accuracy']:.1f} %  {title} {record[watched]['accuracy']:.1f} %",
                file=sys.stderr,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def counted(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """The items, with a bar over ``total`` of them where stderr is a terminal."""
    quiet = not sys.stderr.isatty()
    yield from tqdm(items, total=total, desc=title, unit="batch", disable=quiet, dynamic_ncols=True, leave=False)


class TensorBoard:
    """Scalars of every epoch as TensorBoard events.

    Raises:
        MissingDependencyError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError(
                "training.tensorboard needs the package tensorboard", 'pip install "geopeft[tensorboard]"'
            ) from None
        self._writer = SummaryWriter(str(folder))

    def write(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in parts:
                if name != "epoch" and isinstance(number, int | float):
                    tag = f"{name}/{part}" if part else name
                    self._writer.add_scalar(tag, number, record["epoch"])

    def close(self) -> None:
        self._writer.close()


class RunListener:
    """Tells bar, log and TensorBoard; the processes beside the first tell nobody."""

    def __init__(self, bar: ProgressBar | None, log: MetricsLog | None, board: TensorBoard | None) -> None:
        self._bar, self._log, self._board = bar, log, board

    def epoch_starts(self, epoch: int, epochs: int, steps: int) -> None:
        if self._bar:
            self._bar.epoch_starts(epoch, epochs, steps)

    def step_done(self, loss: float, accuracy: float, rate: float) -> None:
        if self._bar:
            self._bar.step_done(loss, accuracy, rate)

    def epoch_done(self, record: dict[str, Any]) -> None:
        for listener in (self._log, self._board):
            if listener:
                listener.write(record)
        if self._bar:
            self._bar.epoch_done(record)

    def close(self) -> None:
        for listener in (self._bar, self._board):
            if listener:
                listener.close()
