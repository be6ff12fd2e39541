"""Measuring by votes: the mean over random views of a cloud decides, not one view."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from geopeft_cli.contracts import Backbone
from geopeft_cli.data.views import Views
from geopeft_cli.evaluation.loop import evaluate

Voting = Literal["views", "published", "fragments"]


@dataclass(frozen=True)
class Votes:
    """Figures of a vote.

    Attributes:
        voting: ``views``, a fixed number of views, reported once; ``published``, that again and again; or
            ``fragments`` of scenes.
        views: in a vote.
        rounds: how many votes there were.
        augment: what changes the views, beside the choice of their points.
        figures: in percent, by the name under which they may be reported: ``views``, ``fragments``; or
            ``mean_over_rounds``, ``std_over_rounds`` (of the population) and ``maximum_over_rounds``, which is what
            papers print as voting and is chosen by the score on the split.
    """

    voting: Voting
    views: int
    rounds: int
    augment: tuple[str, ...]
    figures: dict[str, dict[str, float]]


def vote(
    model: Backbone,
    views: Views,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    *,
    voting: Voting,
    count: int,
    rounds: int,
    augment: tuple[str, ...] = (),
    advance: Callable[[], object] = lambda: None,
) -> Votes:
    """Let the mean of the logits over ``count`` views decide about every cloud.

    Args:
        model: of a task with one label a cloud, on ``device``.
        views: of the split.
        device: of the model.
        autocast: the context of forward passes.
        voting: ``published`` takes ``rounds`` votes, each of other views; ``views`` takes one.
        count: views in a vote.
        rounds: votes.
        augment: that of ``views``, for the record.
        advance: called after every view.

    Raises:
        GeopeftError: an output is not finite.
    """
    task = model.task
    assert task is not None
    rounds = rounds if voting == "published" else 1
    found: list[dict[str, float]] = []
    for number in range(rounds):
        logits = targets = None
        for view in range(count):
            seen = evaluate(model, views.view(number * count + view), device, autocast)
            logits = seen.outcomes if logits is None else logits + seen.outcomes
            targets = seen.targets
            advance()
        assert logits is not None
        assert targets is not None
        found.append(task.metrics(logits / count, targets))
    if voting == "views":
        return Votes(voting, count, rounds, augment, {"views": found[0]})
    series = {name: np.array([metrics[name] for metrics in found]) for name in found[0]}
    figures = {
        "mean_over_rounds": {name: float(values.mean()) for name, values in series.items()},
        "std_over_rounds": {name: float(values.std()) for name, values in series.items()},
        "maximum_over_rounds": {name: float(values.max()) for name, values in series.items()},
    }
    return Votes(voting, count, rounds, augment, figures)
