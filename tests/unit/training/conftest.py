"""A small classifier without random layers, and a way to train it on clouds that are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geopeft_cli.adapters.directory import adapter_state
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.training.loop import Outcome, Plan, train

PLAN = {
    "epochs": 2, "lr": 0.02, "weight_decay": 0.05, "schedule": "cosine", "warmup_epochs": 0, "min_lr": 0.0,
    "warmup_lr": 0.0, "clip_norm": None, "accumulation": 1, "precision": "fp32", "select": "last",
    "evaluate_every": 1, "checkpoint_every": 1,
}  # fmt: skip


@dataclass
class Clouds:
    """A batch as the loop sees it."""

    points: Tensor
    labels: Tensor


@dataclass
class Fixed:
    """The same clouds in the same order in every epoch, ``size`` a batch."""

    points: Tensor
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def epoch(self, epoch: int) -> Iterator[Clouds]:
        for points, labels in zip(self.points.split(self.size), self.labels.split(self.size), strict=True):
            yield Clouds(points, labels)


@dataclass
class Notes:
    """A listener that remembers everything."""

    epochs: list[tuple[int, int, int]] = field(default_factory=list)
    steps: list[tuple[float, float, float]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def epoch_starts(self, epoch: int, epochs: int, steps: int) -> None:
        self.epochs.append((epoch, epochs, steps))

    def step_done(self, loss: float, accuracy: float, rate: float) -> None:
        self.steps.append((loss, accuracy, rate))

    def epoch_done(self, record: dict[str, Any]) -> None:
        self.records.append(record)


class Bench:
    """A LoRA of a tiny Point-MAE with a linear head: no dropout, no stochastic depth, no BatchNorm that trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model = PointMAE(24, 2, 4, groups=8, group_size=4, drop_path=0.0)
            self.model.requires_grad_(False)
            self.method = LoRA(rank=2)
            self.method.attach(self.model)
            self.task = Classification(["a", "b", "c"], head="linear")
            self.task.attach(self.model)
            self.points, self.labels = torch.randn(12, 40, 3), torch.arange(12) % 3
        self.notes = Notes()

    def collect(self) -> dict[str, Tensor]:
        return adapter_state(self.model, ())

    def train(
        self,
        *,
        size: int = 12,
        scores: Sequence[float] | None = None,
        ranks: Ranks | None = None,
        collect: Callable[[], dict[str, Tensor]] | None = None,
        **plan: Any,
    ) -> Outcome:
        """Run the loop; ``scores`` are what the watched split gives at each of its evaluations."""
        left = iter(scores or ())
        return train(
            self.model,
            self.method,
            self.task,
            Fixed(self.points, self.labels, size),
            Plan(**{**PLAN, **plan}),
            device=torch.device("cpu"),
            folder=self.folder,
            collect=collect or self.collect,
            evaluate=None if scores is None else lambda: {"accuracy": next(left)},
            listener=self.notes,
            ranks=ranks or Ranks(),
            recipe_digest="digest",
            seed=0,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[], Bench]:
    """``bench()``: the same untrained classifier every time, each with a folder of its own."""
    count = iter(range(100))
    return lambda: Bench(tmp_path / str(next(count)))
