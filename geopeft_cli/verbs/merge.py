"""Fold an adapter into its base and write one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geopeft_cli.adapters.manifest import HEADER_KEY
from geopeft_cli.adapters.merge import Merged, merge
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.assemble import make_batches
from geopeft_cli.backbones.checkpoint import SETTINGS_KEY, fingerprint
from geopeft_cli.contracts import Backbone, official_state
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.evaluation.scenes import evaluate_set
from geopeft_cli.storage import new_file, refuse_existing
from geopeft_cli.training.precision import choose_device
from geopeft_cli.verbs.opening import Opened, check_clouds, open_data, open_unmerged
from geopeft_cli.verbs.reversible import DIGEST, REVERSIBLE, kept_aside


@dataclass(frozen=True)
class MergeResult:
    """What was written and what it is worth.

    Attributes:
        file: the checkpoint.
        merged: mode, exactness, errors by layer.
        clouds: on which clouds it was compared, in words.
        accuracy: test accuracy before and after, in percent, for approximate modes; else ``None``.
    """

    file: Path
    merged: Merged
    clouds: str
    accuracy: tuple[float, float] | None


def merge_trained(
    path: Path, output: Path, mode: str = "auto", overrides: Sequence[str] = (), *, reversible: bool = False
) -> MergeResult:
    """Merge a run or an adapter and write a safetensors checkpoint in the official layout.

    The exact modes are compared with the unmerged model on real clouds before the file is put in place; the
    approximate ones are measured instead. Files of modes ``keep-k`` and ``stacked`` hold the geometric part of the
    update as well and need geopeft to run. A reversible file also keeps what :mod:`geopeft_cli.verbs.unmerge` needs.

    Raises:
        UsageError: the output exists, or is not a ``.safetensors`` file.
        MergeError: the mode is not possible, or its result does not agree.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"--output {output}: a merged checkpoint is a .safetensors file")
    refuse_existing(output, file=True)
    opened = open_unmerged(path, overrides)
    clouds, note = check_clouds(opened, 64 if mode in ("auto", "exact", "keep-k", "stacked") else 128)
    merged = merge(opened.model, mode, clouds)
    accuracy = None if merged.exact else accuracies(opened, merged.model)
    record = {**merged.record(), "clouds": note}
    if accuracy is not None:
        record["test_accuracy"] = {"unmerged": accuracy[0], "merged": accuracy[1]}
    tensors = official_state(merged.model)
    if reversible:
        tensors |= kept_aside(opened, tensors)
        record |= {REVERSIBLE: True, DIGEST: fingerprint(tensors)}
    manifest = replace(opened.manifest, merged=record)
    with new_file(output) as partial:
        write_tensors(
            partial,
            {opened.model.layout.file_name(name): tensor for name, tensor in tensors.items()},
            {"format": "pt", HEADER_KEY: manifest.to_text(), SETTINGS_KEY: json.dumps(opened.manifest.backbone)},
        )
    return MergeResult(output, merged, note, accuracy)


def accuracies(opened: Opened, model: Backbone) -> tuple[float, float] | None:
    """Test accuracy in percent of what was opened and of what was made of it; ``None`` without its data."""
    try:
        found = open_data(opened).test
    except (UsageError, DataError):
        return None
    recipe = opened.recipe
    device = choose_device(recipe.training.device, scenes=recipe.of_scenes)
    batches = make_batches(recipe, found, "test", training=False, batch_size=recipe.evaluation.batch_size)
    before, after = (
        evaluate_set(each.to(device), found, batches, device).metrics["accuracy"] for each in (opened.model, model)
    )
    return before, after
