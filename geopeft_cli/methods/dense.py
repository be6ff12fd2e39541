"""Dense layers as methods see them: linear layers and convolutions of kernel 1, which are the same map."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Site
from geopeft_cli.errors import MergeError, UsageError

Dense = nn.Linear | nn.Conv1d


def dense_layer(site: Site) -> Dense:
    """The layer at a site, checked to be dense.

    Raises:
        UsageError: something else is there, such as another method's module.
    """
    layer = site.module
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv1d) and layer.kernel_size == (1,)):
        return layer
    raise UsageError(f"{site.name} is a {type(layer).__name__}, not a dense layer", "Choose other method.targets.")


def sizes(layer: Dense) -> tuple[int, int]:
    """(in, out) channels."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def with_update(layer: Dense, delta: Tensor, bias: Tensor | None = None) -> Dense:
    """A copy of a layer whose weight is W + delta, formed in float64 and cast back.

    Args:
        layer: the base, unchanged.
        delta: (out, in).
        bias: (out,), added to the layer's bias.

    Raises:
        MergeError: an update is not finite, or there is no bias to add to.
    """
    for update in (delta, bias):
        if update is not None and not update.isfinite().all():
            raise MergeError("the update holds values that are not finite", "The adapter is damaged or diverged.")
    if bias is not None and layer.bias is None:
        raise MergeError(
            "the update has a bias and the layer it belongs to has none",
            "Keep the adapter beside its base; mode keep-k, where there is one, holds the bias.",
        )
    merged = copy.deepcopy(layer)
    with torch.no_grad():
        merged.weight.copy_(layer.weight.double() + delta.double().reshape(layer.weight.shape))
        if bias is not None and layer.bias is not None and merged.bias is not None:
            merged.bias.copy_(layer.bias.double() + bias.double())
    return merged
