"""What a training step minimizes: the loss of the task, and terms that a backbone adds in training."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from torch import Tensor

from geopeft_cli.contracts import Backbone, Scenes, Task

_collected: ContextVar[list[Tensor] | None] = ContextVar("collected", default=None)


def training_loss(
    model: Backbone, task: Task, points: Tensor | Scenes, targets: Tensor, *conditions: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of a batch with everything that the backbone adds to it, and the logits.

    Args:
        points: clouds (B, N, 3), or packed scenes.
        targets: int64 (B,), or (B, N) for a label a point; (N,) for the voxels of scenes.
        conditions: what the model is told beside the points, see ``Task.conditions``.

    Returns:
        A scalar, and (B, classes), (B, N, classes) or (N, classes).
    """
    terms: list[Tensor] = []
    token = _collected.set(terms)
    try:
        logits: Tensor = model(points, *conditions)
    finally:
        _collected.reset(token)
    return sum(terms, task.loss(logits, targets)), logits


def add_to_training_loss(term: Callable[[], Tensor]) -> None:
    """Called by a backbone: a scalar beside the loss of the task, computed only within :func:`training_loss`."""
    terms = _collected.get()
    if terms is not None:
        terms.append(term())
