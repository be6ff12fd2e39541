"""Running a model over a split and measuring it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.contracts import Backbone
from geopeft_cli.errors import GeopeftError


@dataclass(frozen=True)
class Evaluation:
    """Logits (clouds, classes) and labels (clouds,) of a split, in its order, with the task's metrics in percent."""

    logits: Tensor
    labels: Tensor
    metrics: dict[str, float]


@torch.no_grad()
def evaluate(
    model: Backbone,
    batches: Iterable[Any],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Evaluation:
    """Measure a model in eval mode; its mode before is restored.

    Raises:
        GeopeftError: an output is not finite, with the index of the first such cloud.
    """
    assert model.task is not None
    was_training = model.training
    model.eval()
    logits, labels = [], []
    try:
        for batch in batches:
            with autocast():
                output = model(batch.points.to(device)).float().cpu()
            if not output.isfinite().all():
                row = int((~output.isfinite().all(dim=1)).nonzero()[0])
                raise GeopeftError(
                    f"the output for cloud {int(batch.indices[row])} is not finite",
                    "The weights have diverged, or the cloud holds values that are not finite.",
                )
            logits.append(output)
            labels.append(batch.labels)
    finally:
        model.train(was_training)
    if not logits:
        raise GeopeftError("the split holds no clouds", "Choose another with evaluation.split.")
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    return Evaluation(all_logits, all_labels, model.task.metrics(all_logits, all_labels))
