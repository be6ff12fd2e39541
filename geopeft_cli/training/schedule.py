"""Learning rates by epoch, and which parameters decay."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from geopeft_cli.contracts import official_name


def epochs_run(schedule: Literal["cosine_lag", "cosine"], epochs: int) -> int:
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
    schedule: Literal["cosine_lag", "cosine"],
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


def decays(name: str, parameter: torch.Tensor) -> bool:
    """The published rule by official name: no decay for 1-D tensors, biases, and names that contain ``token``."""
    return parameter.ndim > 1 and not name.endswith(".bias") and "token" not in name


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups for the optimizer, without decay first; frozen ones are in none."""
    named = [(official_name(name), p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
    ]
