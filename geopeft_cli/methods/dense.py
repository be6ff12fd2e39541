"""Dense layers as methods see them: linear layers and convolutions of kernel 1, which are the same map."""

from __future__ import annotations

import copy

import torch
from torch import nn

from geopeft_cli.contracts import DenseUpdate, Site
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


def like(layer: Dense, inputs: int, outputs: int, bias: bool) -> Dense:
    """A new layer that reads tensors laid out as those of ``layer``."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, bias=bias)
    return nn.Conv1d(inputs, outputs, 1, bias=bias)


def with_update(layer: Dense, update: DenseUpdate) -> Dense:
    """A copy of a layer whose weight is W + update, formed in float64 and cast back.

    Raises:
        MergeError: the update is not finite, or there is no bias to add its to.
    """
    require_finite(update)
    if update.bias is not None and layer.bias is None:
        raise MergeError(
            "the update has a bias and the layer it belongs to has none",
            "Keep the adapter beside its base; the modes keep-k and stacked, where there are any, hold the bias.",
        )
    merged = copy.deepcopy(layer)
    with torch.no_grad():
        merged.weight.copy_(layer.weight.double() + update.weight.reshape(layer.weight.shape))
        if update.bias is not None and layer.bias is not None and merged.bias is not None:
            merged.bias.copy_(layer.bias.double() + update.bias)
    return merged


def require_finite(update: DenseUpdate) -> None:
    """Stop a damaged update from being merged.

    Raises:
        MergeError: a value is NaN or infinite.
    """
    for part in (update.weight, update.bias):
        if part is not None and not part.isfinite().all():
            raise MergeError("the update holds values that are not finite", "The adapter is damaged or diverged.")
