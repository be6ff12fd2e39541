"""Turn an adapter whose update is a matrix in every layer into the nearest LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from geopeft_cli.adapters.directory import adapter_names, adapter_state, load_adapter
from geopeft_cli.adapters.low_rank import LowRank, nearest_of_rank
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.merge import Batches, calibrate, compare, exact_modes, foldable_layers
from geopeft_cli.assemble import Experiment, build
from geopeft_cli.contracts import (
    Backbone,
    DenseUpdate,
    Foldable,
    Vocabulary,
    official_name,
    official_state,
    select_sites,
)
from geopeft_cli.errors import MergeError, MergeModeError, UsageError
from geopeft_cli.methods.dense import require_finite
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.storage import new_folder, refuse_existing
from geopeft_cli.verbs.merge import accuracies
from geopeft_cli.verbs.opening import Opened, check_clouds, open_unmerged
from geopeft_cli.verbs.saving import write_made


@dataclass(frozen=True)
class LoRAResult:
    """What was written and how near it is.

    Attributes:
        folder: the adapter directory.
        rank: of every layer.
        mode: which matrix stands for the update.
        truncation: |matrix - B A| / |matrix| by layer.
        errors: |update - matrix| / |update| by layer, for approximate modes, as :func:`merge` measures it.
        difference: largest absolute difference of a logit from the adapter that was given.
        scale: root mean square of the logits.
        clouds: on which clouds it was compared, in words.
        accuracy: test accuracy before and after, in percent; ``None`` without the recipe's data.
    """

    folder: Path
    rank: int
    mode: str
    truncation: dict[str, float]
    errors: dict[str, float]
    difference: float
    scale: float
    clouds: str
    accuracy: tuple[float, float] | None


def convert_to_lora(
    path: Path, output: Path, rank: int, mode: str = "auto", overrides: Sequence[str] = ()
) -> LoRAResult:
    """Write the LoRA adapter of a rank that is nearest to a run or an adapter, layer by layer.

    Head, class tokens and whatever else both adapters hold are the same. alpha is the rank, so that B A is not scaled.

    Args:
        path: a run folder or an adapter directory.
        output: the directory to write.
        rank: of B A, the same in every layer.
        mode: ``auto`` and ``exact`` for the update itself, or an approximate merge mode.
        overrides: ``key.sub=value`` over the adapter's recipe.

    Raises:
        UsageError: the output exists, no layer is adapted, or the rank is above a layer's smaller side.
        MergeModeError: the mode gives no matrix here.
        MergeError: the update has a bias or is not finite, or LoRA cannot express the adapter.
    """
    refuse_existing(output)
    opened = open_unmerged(path, overrides)
    layers = foldable_layers(opened.model)
    method = opened.recipe.method.name
    if not layers:
        raise UsageError(
            f"--to-lora: {method} adapts no layers, so that there is no update to take apart",
            "Merge it without --to-lora.",
        )
    mode = _checked_mode(layers, "exact" if mode == "auto" else mode)
    _check_rank(layers, rank)
    targets = _targets(opened, [official_name(name) for name in layers])
    clouds, note = check_clouds(opened, 64 if mode == "exact" else 128)
    updates, errors = _updates(opened.model, layers, mode, clouds)
    factors = {name: nearest_of_rank(update.weight, rank) for name, update in updates.items()}
    experiment = _lora_experiment(opened, rank, targets)
    tensors = _tensors(opened, experiment, layers, factors)
    load_adapter(experiment.model, tensors, experiment.fresh, str(output))
    experiment.model.eval()
    difference, scale = compare(opened.model, experiment.model, clouds)
    truncation = {name: factor.error for name, factor in factors.items()}
    accuracy = accuracies(opened, experiment.model)
    origin = {
        "method": opened.manifest.recipe["method"],
        "metrics": opened.manifest.metrics,
        "mode": mode,
        "layer_errors": errors,
        "truncation_errors": truncation,
        "largest_logit_difference": difference,
        "clouds": note,
    }
    manifest = _manifest(opened.manifest, experiment, origin, accuracy)
    with new_folder(output) as partial:
        write_made(partial, experiment, tensors, manifest)
    return LoRAResult(output, rank, mode, truncation, errors, difference, scale, note, accuracy)


def _checked_mode(layers: Mapping[str, Foldable], mode: str) -> str:
    """The mode, which must make one matrix of the update of every layer."""
    approximate = sorted({name for layer in layers.values() for name in layer.approximate_modes})
    exact = "exact" in exact_modes(layers.values())
    if mode in approximate or (mode == "exact" and exact):
        return mode
    possible = (["exact"] if exact else []) + approximate
    if mode == "exact":
        message = "--to-lora needs an update that is one matrix, and with method.lam other than 0 it is none"
        raise MergeModeError(message, f"Name an approximation with --mode: {', '.join(possible) or 'none'}.")
    message = f"--to-lora: mode {mode} does not make one matrix of the update here"
    raise MergeModeError(message, f"Possible with --mode: {', '.join(possible) or 'none'}.")


def _check_rank(layers: Mapping[str, Foldable], rank: int) -> None:
    sides = {name: min(layer.base.get_parameter("weight").shape[:2]) for name, layer in layers.items()}
    name = min(sides, key=lambda each: sides[each])
    if rank > sides[name]:
        raise UsageError(
            f"--to-lora {rank}: {official_name(name)} has a side of {sides[name]}, and no matrix there a higher rank",
            f"At most {sides[name]}: the adapter has one rank for all layers.",
        )


def _targets(opened: Opened, names: list[str]) -> list[str]:
    """``method.targets`` of a LoRA on these layers: those of the adapter where they mean the same."""
    own = list(getattr(opened.recipe.method, "targets", ()))
    known = {site.name for site in opened.model.sites()}
    odd = [name for name in names if name not in known]
    for targets in (own, names):
        if targets and not odd and {site.name for site in select_sites(opened.model, targets)} == set(names):
            return targets
    raise MergeError(
        f"--to-lora: method.targets of lora cannot name {(odd or names)[0]} alone",
        "Merge without --to-lora.",
    )


def _updates(
    model: Backbone, layers: Mapping[str, Foldable], mode: str, clouds: Batches
) -> tuple[dict[str, DenseUpdate], dict[str, float]]:
    """The matrix of every layer by official name, and for approximate modes its errors."""
    is_approximate = any(mode in layer.approximate_modes for layer in layers.values())
    fitted, held_back = calibrate(model, layers, mode, clouds) if is_approximate else ({}, {})
    updates = {}
    for name, layer in layers.items():
        update = layer.dense_update(mode if name in fitted else "exact", fitted.get(name))
        require_finite(update)
        if update.bias is not None and update.bias.any():
            raise MergeError(
                f"--to-lora: {official_name(name)}: the update has a bias, and LoRA has no place for it",
                "Use --mode calibrated-scalar, or merge without --to-lora."
                if mode == "calibrated-matrix"
                else "Merge without --to-lora, or train with method.bias=false.",
            )
        updates[official_name(name)] = update
    return updates, {official_name(name): record.error(held_back[name]) for name, record in fitted.items()}


def _lora_experiment(opened: Opened, rank: int, targets: list[str]) -> Experiment:
    """The model on the same base with an untrained LoRA in place of the method."""
    model = opened.model
    trained = any(model.get_parameter(name).requires_grad for name in model.token_names)
    method = {
        "name": "lora",
        "rank": rank,
        "alpha": rank,
        "targets": targets,
        "tokens": "train" if trained else "freeze",
    }
    values = {**opened.recipe.model_dump(), "method": method}
    return build(Recipe.model_validate(values), Vocabulary.of(opened.manifest))


def _tensors(
    opened: Opened, experiment: Experiment, layers: Mapping[str, Foldable], factors: Mapping[str, LowRank]
) -> dict[str, Tensor]:
    """What the LoRA adapter holds: its factors, and what the other adapter held beside its own."""
    former = adapter_state(opened.model, opened.manifest.fresh)
    replaced = {
        official_name(f"{name}.{part}")
        for name, layer in layers.items()
        for part, _ in layer.named_parameters()
        if not part.startswith("base.")
    }
    names = adapter_names(experiment.model, experiment.fresh)
    lost = sorted(set(former) - replaced - set(names))
    if lost:
        raise MergeError(
            f"--to-lora: {opened.recipe.method.name} also trains {lost[0]}, which a LoRA adapter does not hold",
            "Merge without --to-lora.",
        )
    state = official_state(experiment.model)
    tensors = {name: former[name] for name in names if name in former and name not in replaced}
    for layer, factor in factors.items():
        for part, tensor in (("lora_A", factor.down), ("lora_B", factor.up)):
            name = f"{layer}.{part}.weight"
            tensors[name] = tensor.reshape(state[name].shape).cpu()
    return {name: tensors[name] for name in names if name in tensors}


def _manifest(
    former: Manifest, experiment: Experiment, origin: dict[str, Any], accuracy: tuple[float, float] | None
) -> Manifest:
    method, mode = former.recipe["method"]["name"], origin["mode"]
    rank = experiment.method.settings()["rank"]
    changed = {
        "method": experiment.recipe.model_dump(mode="json")["method"],
        "description": f"the LoRA of rank {rank} nearest to an adapter of {method} (mode {mode}), not trained as such",
        "published": [],
    }
    return replace(
        former,
        recipe={**former.recipe, **changed},
        total_parameters=experiment.total_parameters,
        trainable_parameters=experiment.trainable_parameters,
        metrics={} if accuracy is None else {"test": {"accuracy": accuracy[1]}},
        origin=origin,
    )
