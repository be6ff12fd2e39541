"""From a merged file back to its adapter and its base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from geopeft_cli.adapters.directory import StoredAdapter, adapter_names, load_adapter, read_adapter
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.peft_layout import find_adapter
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.adapters.unfold import subtracted
from geopeft_cli.assemble import build, read_base, skeleton
from geopeft_cli.backbones import backbone_class
from geopeft_cli.backbones.checkpoint import SETTINGS_KEY, Checkpoint, fingerprint
from geopeft_cli.backbones.files import ASIDE, read_aside, read_tensors
from geopeft_cli.contracts import Backbone, Vocabulary, load_official_state, official_state
from geopeft_cli.errors import AdapterError, CheckpointError, MergeError, UsageError
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.storage import new_folder, refuse_existing
from geopeft_cli.verbs.opening import file_manifest, recorded_recipe
from geopeft_cli.verbs.reversible import ADAPTER, BASE, DIGEST, REVERSIBLE, as_loaded, same_bits, taken_back
from geopeft_cli.verbs.saving import write_made

BASE_FILE = "base.safetensors"
TOLERANCE = 1e-5  # of the largest weight; more than any rounding of float32


@dataclass(frozen=True)
class Unmerged:
    """What was restored.

    Attributes:
        folder: adapter directory with ``base.safetensors``.
        base: where the base is from: ``stored`` in the file, the recipe's ``checkpoint``, or ``subtracted``, which
            rounds and so makes a base of another digest.
        arguments: what makes the other commands use this base.
        deviation: largest difference between the subtracted and the true base, where both are known.
    """

    folder: Path
    base: Literal["stored", "checkpoint", "subtracted"]
    arguments: tuple[str, ...]
    deviation: float | None = None


def unmerge(path: Path, output: Path, adapter: Path | None = None, overrides: Sequence[str] = ()) -> Unmerged:
    """Restore adapter and base from a merged file.

    A reversible file has both, bit for bit. For any other the adapter must be given; the base is then the recipe's
    checkpoint if that is there, or else found by subtracting the update in float64, which rounds. In that case the
    adapter's record is given the digest of the rounded base.

    Args:
        path: the merged file.
        output: the directory to write.
        adapter: the run or the adapter that was merged, for files that are not reversible.
        overrides: ``key.sub=value`` over the file's recipe, such as ``backbone.checkpoint=PATH``.

    Raises:
        UsageError: not a merged file, the output exists, or the adapter is missing or superfluous.
        AdapterError: the file was changed, or the adapter is not the one that was merged.
        MergeError: the base can be found in no way.
    """
    refuse_existing(output)
    if not path.is_file():
        raise UsageError(f"--unmerge takes a merged file, and {path} is none")
    manifest = file_manifest(path)
    record = manifest.merged
    if record is None:
        raise UsageError(f"--unmerge takes a merged file, and {path} is none")
    recipe = recorded_recipe(manifest, path, overrides)
    layout = backbone_class(recipe.backbone.name).layout
    merged = {layout.own_name(name): tensor for name, tensor in read_tensors(path).items()}
    former = replace(manifest, merged=None)
    arguments = (
        f"backbone.checkpoint={output / BASE_FILE}",
        *(["backbone.sha256=null"] if recipe.backbone.sha256 else []),
    )
    if record.get(REVERSIBLE):
        if adapter is not None:
            raise UsageError(f"{path} is reversible and holds its adapter", "Leave --adapter out.")
        aside = {layout.own_name(name): tensor for name, tensor in read_aside(path).items()}
        if fingerprint({**merged, **{ASIDE + name: tensor for name, tensor in aside.items()}}) != record[DIGEST]:
            raise AdapterError(f"{path} was changed after it was written", "Copy or make it again.")
        parts = (name.removeprefix(BASE) for name in aside if name.startswith(BASE))
        base = taken_back(BASE, [*_base_names(former, recipe, merged), *parts], merged, aside)
        _restore(output, former, recipe, base, merged, aside)
        return Unmerged(output, "stored", arguments)
    if adapter is None:
        raise UsageError(
            f"{path} is not reversible: it does not hold the adapter that was merged",
            "Give it with --adapter RUN. Merging with --reversible keeps it in the file.",
        )
    stored = _own_adapter(adapter, former, merged, path)
    rounded = subtracted(_filled(former, recipe, stored), str(record["mode"]), merged)
    names = _base_names(former, recipe, merged)
    checkpoint = _reachable(former, recipe)
    deviation = None
    if checkpoint is not None:
        source: Literal["checkpoint", "subtracted"] = "checkpoint"
        true = {name: as_loaded(tensor) for name, tensor in {**checkpoint.backbone, **checkpoint.head}.items()}
        names += [name for name in true if name.startswith(layout.optional) and name not in names]
        deviation, base = _deviation(true, rounded), {name: true[name] for name in names}
    else:
        source, base = "subtracted", {name: rounded.get(name, merged[name]) for name in names}
        _refuse_overwritten([name for name in names if name in stored.tensors], recipe)
        former = replace(
            former,
            base_sha256=fingerprint(base),
            origin={**(former.origin or {}), "base": "found by subtraction", "true_base_sha256": former.base_sha256},
        )
    _restore(output, former, recipe, base, stored.tensors, {})
    return Unmerged(output, source, arguments, deviation)


def _backbone_names(manifest: Manifest, recipe: Recipe) -> list[str]:
    """Names of the backbone's tensors that its base held."""
    backbone = backbone_class(recipe.backbone.name)(**manifest.backbone)
    return [name for name in official_state(backbone) if name not in manifest.fresh]


def _base_names(manifest: Manifest, recipe: Recipe, merged: Mapping[str, Tensor]) -> list[str]:
    """The same, and those of the head where the recipe takes it from the base."""
    layout = backbone_class(recipe.backbone.name).layout
    head = [name for name in merged if name.startswith(layout.head)] if recipe.task.head_from == "checkpoint" else []
    return _backbone_names(manifest, recipe) + head


def _restore(
    output: Path,
    manifest: Manifest,
    recipe: Recipe,
    base: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    aside: Mapping[str, Tensor],
) -> None:
    """Write base and adapter, checking that the base has the recorded digest and that the adapter fits it."""
    layout = backbone_class(recipe.backbone.name).layout
    prefix = layout.prefix if manifest.fresh else ""
    with new_folder(output) as partial:
        file = partial / BASE_FILE
        header = {"format": "pt", SETTINGS_KEY: json.dumps(manifest.backbone)}
        write_tensors(file, {prefix + layout.file_name(name): tensor for name, tensor in base.items()}, header)
        section = recipe.backbone.model_copy(update={"checkpoint": str(file), "sha256": None})
        experiment = build(recipe.model_copy(update={"backbone": section}), Vocabulary.of(manifest), manifest)
        if experiment.checkpoint.sha256 != manifest.base_sha256:
            raise AdapterError(
                f"the base restored has SHA-256 {experiment.checkpoint.sha256[:12]}…, "
                f"the record says {manifest.base_sha256[:12]}…",
                "The file was changed: copy or make it again.",
            )
        names = adapter_names(experiment.model, experiment.fresh)
        own = taken_back(ADAPTER, names, tensors, aside)
        load_adapter(experiment.model, own, experiment.fresh, str(output))
        write_made(partial, experiment, own, manifest)


def _own_adapter(path: Path, manifest: Manifest, merged: Mapping[str, Tensor], file: Path) -> StoredAdapter:
    """The adapter that the user gives, which must be the one in the merged file.

    Raises:
        AdapterError: it has another record, or other tensors where both hold them.
    """
    stored = read_adapter(find_adapter(path))
    shared = (name for name in stored.tensors if name in merged)
    if stored.manifest != manifest or not all(same_bits(stored.tensors[name], merged[name]) for name in shared):
        raise AdapterError(f"{stored.folder} is not the adapter that was merged into {file}")
    return stored


def _filled(manifest: Manifest, recipe: Recipe, stored: StoredAdapter) -> Backbone:
    """The adapted model with the adapter's tensors in it, on no base.

    Raises:
        AdapterError: a tensor has no place in it.
    """
    model = skeleton(manifest, recipe)
    own = official_state(model)
    odd = [name for name, t in stored.tensors.items() if name not in own or own[name].shape != t.shape]
    if odd:
        raise AdapterError(f"{stored.folder}: {odd[0]} has no place in the model of its record", "It is damaged.")
    load_official_state(model, stored.tensors)
    return model


def _deviation(true: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> float:
    """The largest difference of the subtracted from the true base.

    Raises:
        AdapterError: it is more than rounding.
    """
    pairs = [(true[name].double(), tensor.double()) for name, tensor in rounded.items()]
    deviation = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    if deviation > TOLERANCE * max((float(a.abs().max()) for a, _ in pairs), default=1.0):
        raise AdapterError(
            f"what is left without the update differs from the base by {deviation:.1e}",
            "The merged file was changed, or the adapter is not the one that was merged.",
        )
    return deviation


def _refuse_overwritten(names: Sequence[str], recipe: Recipe) -> None:
    """Stop where training went over tensors of the base, which no subtraction brings back."""
    if names:
        raise MergeError(
            f"the merged file lacks {len(names)} tensors of the base that the training went over, such as {names[0]}, "
            f"and {recipe.backbone.checkpoint} is not that base",
            "Give the base with backbone.checkpoint=PATH.",
        )


def _reachable(manifest: Manifest, recipe: Recipe) -> Checkpoint | None:
    """The recipe's checkpoint if it is there and is the base that the record speaks of."""
    try:
        checkpoint = read_base(recipe)
    except (UsageError, CheckpointError):
        return None
    return checkpoint if checkpoint.sha256 == manifest.base_sha256 else None
