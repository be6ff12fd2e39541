"""Running a model over a split and measuring it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.contracts import Backbone
from geopeft_cli.errors import GeopeftError


@dataclass(frozen=True)
class Evaluation:
    """What came out for a split, in its order.

    Attributes:
        outcomes: logits (clouds, classes); or, for a label a point, the decisions (clouds, N), of scenes (all points,).
        targets: the truth, (clouds,), (clouds, N) or (all points,).
        metrics: of the task, in percent.
        sizes: of scenes, how many points each has.
    """

    outcomes: Tensor
    targets: Tensor
    metrics: dict[str, float]
    sizes: tuple[int, ...] = ()


@torch.no_grad()
def evaluate(
    model: Backbone,
    batches: Iterable[Any],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Evaluation:
    """Measure a model in eval mode; its mode before is restored, and ``batches`` that are a generator are closed.

    Raises:
        GeopeftError: an output is not finite, with the index of the first such cloud.
    """
    task = model.task
    assert task is not None
    was_training = model.training
    model.eval()
    outcomes, targets, told = [], [], []
    try:
        for batch in batches:
            conditions = [tensor.to(device) for tensor in task.conditions(batch)]
            with autocast():
                output = model(batch.points.to(device), *conditions).float()
            finite = output.isfinite().flatten(1).all(dim=1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                raise GeopeftError(
                    f"the output for cloud {int(batch.indices[row])} is not finite",
                    "The weights have diverged, or the cloud holds values that are not finite.",
                )
            outcomes.append(task.outcome(output, *conditions).cpu())
            targets.append(task.targets(batch))
            told.append(task.conditions(batch))
    finally:
        model.train(was_training)
        if isinstance(batches, Generator):
            batches.close()  # after a failure its thread ends now, not when the traceback is forgotten
    if not outcomes:
        raise GeopeftError("the split holds no clouds", "Choose another with evaluation.split.")
    found, true = torch.cat(outcomes), torch.cat(targets)
    return Evaluation(found, true, task.metrics(found, true, *(torch.cat(each) for each in zip(*told, strict=True))))
