"""Official names: those of the published checkpoints, without the levels that wrappers insert."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn


def registered(reference: str) -> Any:
    """What a registry's ``"module:Name"`` refers to, imported now."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def official_name(name: str) -> str:
    """A parameter, buffer or module name without the ``base`` levels that wrappers insert."""
    return ".".join(part for part in name.split(".") if part != "base")


def official_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by official name."""
    return {official_name(name): parameter for name, parameter in model.named_parameters()}


def official_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by official name; the tensors are the model's own, not copies."""
    return {official_name(name): tensor.detach() for name, tensor in model.state_dict().items()}


def load_official_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors by official name into a model; every name must exist there with the same shape.

    Raises:
        KeyError: a name that the model does not have.
    """
    own = official_state(model)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
