"""Votes over random views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from geopeft_cli.data.clouds import MemoryClouds
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.views import Views
from geopeft_cli.evaluation import voting
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.voting import Votes, vote
from geopeft_cli.tasks.classification import Classification

CPU = torch.device("cpu")
TARGETS = torch.tensor([0, 1])


class Model:
    task = Classification(["a", "b"])


def votes(monkeypatch: pytest.MonkeyPatch, views: Sequence[Tensor], **options: object) -> tuple[Votes, int]:
    """A vote in which the logits of view i are ``views[i]``, and how often its progress was told."""
    clouds = MemoryClouds(np.zeros((2, 4, 3)), TARGETS, ["a", "b"])
    told: list[None] = []
    left = iter(views)
    monkeypatch.setattr(voting, "evaluate", lambda *_: Evaluation(next(left), TARGETS, {}))
    source = Views(clouds, Preparation(4), batch_size=2, seed=0)
    found = vote(Model(), source, CPU, advance=lambda: told.append(None), **options)  # type: ignore[arg-type]
    return found, len(told)


def logits(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows)


RIGHT, HALF, WRONG = (logits((a, -a), (b, -b)) for a, b in ((1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)))


def test_the_mean_of_logits_decides_not_the_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    found, told = votes(monkeypatch, [WRONG, 5 * RIGHT, WRONG], voting="views", count=3, rounds=7)
    assert found.figures == {"views": {"accuracy": 100.0, "mean_class_accuracy": 100.0}}
    assert (found.rounds, told) == (1, 3)


def test_rounds_are_reported_by_mean_spread_and_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    series = [RIGHT, RIGHT, HALF, HALF, WRONG, WRONG, HALF, HALF]
    found, told = votes(monkeypatch, series, voting="published", count=2, rounds=4)
    accuracy = {name: figures["accuracy"] for name, figures in found.figures.items()}
    assert accuracy == pytest.approx(
        {"mean_over_rounds": 50.0, "std_over_rounds": 50 / 2**0.5, "maximum_over_rounds": 100.0}
    )
    assert told == 8


def test_views_that_do_not_differ_give_the_plain_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = votes(monkeypatch, [HALF] * 6, voting="published", count=2, rounds=3)
    plain = Model.task.metrics(HALF, TARGETS)
    assert found.figures["mean_over_rounds"] == found.figures["maximum_over_rounds"] == plain
    assert set(found.figures["std_over_rounds"].values()) == {0.0}
