"""Folding updates into the base weights, with the proof that the result is the same model."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Backbone, Calibration, Foldable, Scenes, Wrapper, official_name
from geopeft_cli.errors import MergeError, MergeModeError

Batches: TypeAlias = Sequence[Tensor] | Sequence[Scenes]

EXACT_TOLERANCE = 1e-4  # of the root mean square of the logits, at least of 1


@dataclass(frozen=True)
class Merged:
    """A merged model and what is known of it.

    Attributes:
        model: the result; the model given is unchanged.
        mode: what was done, never ``auto``.
        exact: whether the mode reproduces the unmerged model up to rounding.
        layers: layers that were folded.
        errors: |update - merged update| / |update| by layer, for approximate modes, on clouds held back from
            calibration.
        difference: largest absolute difference of the logits on the clouds.
        scale: root mean square of the logits.
        choices: the modes that leave no overhead at run time, and whether they are exact here.
    """

    model: Backbone
    mode: str
    exact: bool
    layers: int
    errors: dict[str, float] = field(default_factory=dict)
    difference: float = 0.0
    scale: float = 0.0
    choices: dict[str, bool] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What goes into the metadata of a merged file."""
        return {
            "mode": self.mode,
            "exact": self.exact,
            "layer_errors": self.errors,
            "largest_logit_difference": self.difference,
        }


def foldable_layers(model: nn.Module) -> dict[str, Foldable]:
    """Layers whose update can be merged, by module name.

    Raises:
        MergeError: the model holds a wrapper for which merging is not defined.
    """
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, Foldable):
            layers[name] = module
        elif isinstance(module, Wrapper):
            reason = f": {module.unfoldable}" if module.unfoldable else ""
            raise MergeError(
                f"{official_name(name)}: a {type(module).__name__} cannot be merged into the weights{reason}",
                "Keep the adapter beside its base, or export the model to onnx or pt2.",
            )
    return layers


def merge(model: Backbone, mode: str, clouds: Batches) -> Merged:
    """Fold every update of a model into its base weights.

    Args:
        model: in eval mode, unchanged by the call.
        mode: ``auto`` (the first exact mode of each layer), or a mode by name.
        clouds: batches of real clouds (B, N, 3), or of scenes. The result is compared on all of them; approximate
            modes are fitted on four of every five of them and their errors are measured on the fifth.

    Raises:
        MergeModeError: the mode is not exact or not defined here.
        MergeError: an update is not finite, or the merged model does not agree with the unmerged one.
    """
    layers = foldable_layers(model)
    for name, parameter in model.state_dict().items():
        if not parameter.isfinite().all():
            raise MergeError(f"{official_name(name)} holds values that are not finite", "The adapter is damaged.")
    approximate = {m for layer in layers.values() for m in layer.approximate_modes}
    exact = exact_modes(layers.values())
    if mode not in {"auto", *exact, *approximate}:
        raise MergeModeError(
            f"mode {mode} is not possible here" if mode != "exact" else "no exact fold exists: method.lam is not 0",
            f"Exact: {', '.join(sorted(exact))}. Approximate: {', '.join(sorted(approximate)) or 'none'}.",
        )
    if mode == "auto":
        best = [layer.exact_modes[0] for layer in layers.values()]
        mode = next((each for each in best if each != "exact"), "exact")
    is_approximate = mode in approximate
    fitted, held_back = calibrate(model, layers, mode, clouds) if is_approximate else ({}, {})
    merged = copy.deepcopy(model)
    for name, layer in foldable_layers(merged).items():
        put_layer(merged, name, layer.folded(mode_of(layer, mode), fitted.get(name)))
    errors = {official_name(name): record.error(held_back[name]) for name, record in fitted.items()}
    difference, scale = compare(model, merged, clouds)
    if not math.isfinite(difference) or (not is_approximate and difference > EXACT_TOLERANCE * max(1.0, scale)):
        raise MergeError(
            f"the merged model differs from the unmerged one by {difference:.2e} in its logits", "Please report this."
        )
    choices = {"exact": "exact" in exact} | dict.fromkeys(sorted(approximate), False)
    return Merged(merged, mode, not is_approximate, len(layers), errors, difference, scale, choices)


def exact_modes(layers: Collection[Foldable]) -> set[str]:
    """The exact modes of a whole model: ``exact`` itself only where it is one of every layer."""
    modes = {mode for layer in layers for mode in layer.exact_modes} or {"exact"}
    return modes if all("exact" in layer.exact_modes for layer in layers) else modes - {"exact"}


def mode_of(layer: Foldable, mode: str) -> str:
    """How a layer takes part in a merge in ``mode``: by it, or exactly where it has nothing to keep or approximate."""
    return mode if mode in (*layer.exact_modes, *layer.approximate_modes) else layer.exact_modes[0]


def put_layer(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module at a dotted path."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)


def compare(model: Backbone, other: Backbone, clouds: Batches) -> tuple[float, float]:
    """The largest absolute difference of two models' logits, and the root mean square of the first one's."""
    reference, result = _logits(model, clouds), _logits(other, clouds)
    return float((reference - result).abs().max()), float(reference.square().mean().sqrt())


@torch.no_grad()
def _logits(model: Backbone, clouds: Batches) -> Tensor:
    return torch.cat([model(batch).float().cpu() for batch in clouds])


@torch.no_grad()
def calibrate(
    model: Backbone, layers: Mapping[str, Foldable], mode: str, clouds: Batches
) -> tuple[dict[str, Calibration], dict[str, Calibration]]:
    """Records of the inputs of every layer that has an approximate mode, on four fifths of the clouds and the rest."""
    layers = {name: layer for name, layer in layers.items() if mode in layer.approximate_modes}
    records: list[dict[str, Calibration]] = []
    for part in _divided(clouds):
        record = {name: layer.calibration(mode) for name, layer in layers.items()}
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs, target=record[name]: target.add(inputs[0]))
            for name, layer in layers.items()
        ]
        try:
            for batch in part:
                model(batch)
        finally:
            for hook in hooks:
                hook.remove()
        records.append(record)
    return records[0], records[1]


def _divided(clouds: Batches) -> tuple[Batches, Batches]:
    """Four fifths and the rest; of fewer than five, all twice."""
    every: Any = (
        clouds if isinstance(clouds[0], Scenes) else torch.cat([each for each in clouds if isinstance(each, Tensor)])
    )
    fitted, held_back = ([at for at in range(len(every)) if (at % 5 == 4) is late] for late in (False, True))
    chosen = fitted, held_back or fitted
    if isinstance(every, Tensor):
        return every[chosen[0]].split(16), every[chosen[1]].split(16)
    return [every[at] for at in chosen[0]], [every[at] for at in chosen[1]]
