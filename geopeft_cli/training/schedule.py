"""Learning rates by epoch, and which parameters have which rate and decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from geopeft_cli.contracts import official_name
from geopeft_cli.errors import UsageError

Schedule = Literal["cosine_lag", "cosine", "one_cycle"]


def epochs_run(schedule: Schedule, epochs: int) -> int:
    """Passes over the training set: the published loops run epochs 0..T, which are T + 1."""
    return epochs + 1 if schedule == "cosine_lag" else epochs


def learning_rate(
    epoch: int,
    *,
    base: float,
    epochs: int,
    warmup_epochs: int,
    warmup_lr: float,
    min_lr: float,
    schedule: Schedule,
) -> float:
    """The rate of an epoch: linear warm-up, then a cosine over all epochs that does not restart after it.

    ``cosine_lag`` is the published schedule, which is advanced after an epoch, so that epochs 0 and 1 both run at
    ``warmup_lr`` (or, without warm-up, at ``base``). ``cosine`` warms up from the first epoch on.
    """
    time = max(epoch - 1, 0) if schedule == "cosine_lag" else epoch
    if time < warmup_epochs:
        return warmup_lr + (base - warmup_lr) * time / warmup_epochs
    if time >= epochs:
        return min_lr
    return min_lr + (base - min_lr) * (1 + math.cos(math.pi * time / epochs)) / 2


@dataclass(frozen=True)
class OneCycle:
    """The 1cycle policy (Smith & Topin, arXiv 1708.07120), by steps, in two phases that are both cosines.

    Attributes:
        warmup: share of all steps in which the rate rises.
        start_division: the highest rate over the first.
        end_division: the first rate over the last.
    """

    warmup: float = 0.05
    start_division: float = 10.0
    end_division: float = 1000.0

    def at(self, step: int, steps: int) -> tuple[float, float]:
        """The factor on the highest rate, and beta1, which falls from 0.95 to 0.85 and rises again.

        Args:
            step: of the optimizer, from 0.
            steps: of the whole run.
        """
        peak, last = self.warmup * steps - 1, max(steps - 1, 1)
        first, end = 1 / self.start_division, 1 / (self.start_division * self.end_division)
        if step <= peak:
            share = step / peak if peak > 0 else 1.0
            return _cosine(first, 1.0, share), _cosine(0.95, 0.85, share)
        share = min((step - peak) / max(last - peak, 1), 1.0)
        return _cosine(1.0, end, share), _cosine(0.85, 0.95, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def decays(name: str, parameter: torch.Tensor) -> bool:
    """The published rule by official name: no decay for 1-D tensors, biases, and names that contain ``token``."""
    return parameter.ndim > 1 and not name.endswith(".bias") and "token" not in name


@dataclass(frozen=True)
class OwnGroup:
    """Parameters with a rate or a decay of their own.

    Attributes:
        match: shell pattern of official names.
        lr_scale: factor on the rate at which the schedule peaks; its start and its end are those of all.
        weight_decay: of all its parameters, whatever their shape; ``None``: by the rule for the others.
    """

    match: str
    lr_scale: float = 1.0
    weight_decay: float | None = None


def parameter_groups(model: nn.Module, weight_decay: float, own: Sequence[OwnGroup] = ()) -> list[dict[str, Any]]:
    """Trainable parameters in groups for the optimizer; frozen ones are in none.

    Those of ``own`` come first, in their order, and of several that fit a name the first takes it. The rest, as every
    own group without a decay of its own, makes two groups, without decay first. ``lr_scale`` is for the training
    loop, and both it and ``match`` are kept with the state of the optimizer.

    Raises:
        UsageError: an own group is left without parameters.
    """
    named = {official_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: list[dict[str, Any]] = []
    for index, one in enumerate(own):
        taken = {name: named.pop(name) for name in [name for name in named if fnmatchcase(name, one.match)]}
        if not taken:
            stems = dict.fromkeys(name.partition(".")[0] for name in named)
            raise UsageError(
                f"training.groups[{index}].match: {one.match!r} fits no trainable parameter that is left",
                f"Trainable and in no group before: {', '.join(stems) or 'nothing'}.",
            )
        groups += _groups(taken, weight_decay, one)
    return groups + _groups(named, weight_decay, OwnGroup("*"))


def _groups(named: Mapping[str, nn.Parameter], weight_decay: float, own: OwnGroup) -> list[dict[str, Any]]:
    if own.weight_decay is not None:
        parts = [(list(named.values()), own.weight_decay)]
    else:
        parts = [
            ([p for name, p in named.items() if not decays(name, p)], 0.0),
            ([p for name, p in named.items() if decays(name, p)], weight_decay),
        ]
    settings = {"match": own.match, "lr_scale": own.lr_scale}
    return [{"params": params, "weight_decay": decay, **settings} for params, decay in parts]
