"""Device and number format of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from geopeft_cli.errors import UsageError

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, local_rank: int = 0, *, scenes: bool = False) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU; for ``scenes`` not MPS, where torch cannot reduce segments.

    Raises:
        UsageError: no such device on this machine, or not for scenes.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() and not scenes else "cpu")
    if scenes and name.startswith("mps"):
        raise UsageError("training.device: mps is for objects, not for scenes", "Use auto or cpu.")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"training.device: {name!r} is not on this machine: {str(error).splitlines()[0]}", "Use auto or cpu."
        ) from None
    return device


def autocast(precision: Literal["fp32", "bf16", "fp16"], device: torch.device) -> AbstractContextManager[object]:
    """The context in which forward passes run."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _TYPES[precision])


def loss_scaler(precision: Literal["fp32", "bf16", "fp16"], device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss for fp16, does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
