"""The base weights in a merged model, found by subtracting the update, which rounds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from geopeft_cli.adapters.merge import foldable_layers, mode_of
from geopeft_cli.contracts import Backbone, official_name
from geopeft_cli.errors import MergeError


@torch.no_grad()
def subtracted(model: Backbone, mode: str, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases of the folded layers' base, W - update formed in float64 and cast back.

    Args:
        model: the adapted model with the adapter's tensors in it; its base weights are not read.
        mode: in which it was merged.
        merged: tensors of the merged model by official name.

    Returns:
        by official name; biases only of layers whose base has one.

    Raises:
        MergeError: the update of the mode was fitted to clouds, so that the adapter alone does not give it.
    """
    found = {}
    for path, layer in foldable_layers(model).items():
        name = official_name(path)
        own = mode_of(layer, mode)
        if own.startswith("calibrated"):
            raise MergeError(
                f"mode {mode} was fitted to clouds, and the adapter alone does not say by how much to undo it",
                "Merge it again with --reversible.",
            )
        update, base = layer.dense_update(own), layer.base
        weight = merged[f"{name}.weight"]
        if own == "stacked":
            found[f"{name}.weight"] = weight[:, : update.weight.shape[1]].clone()
        else:
            plain = weight.double() - update.weight.reshape(weight.shape)
            found[f"{name}.weight"] = plain.to(weight.dtype)
        if isinstance(base.bias, Tensor):
            bias = merged[f"{name}.bias"]
            found[f"{name}.bias"] = bias if update.bias is None else (bias.double() - update.bias).to(bias.dtype)
    return found
