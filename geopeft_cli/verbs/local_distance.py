"""Measure the local feature distance of a base model and of what was made of it, on the same clouds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
from geopeft_cli.adapters.peft_layout import TENSORS, find_adapter
from geopeft_cli.assemble import Experiment, build, make_cloud_batches, object_splits
from geopeft_cli.contracts import Backbone, Tokens, Vocabulary
from geopeft_cli.data.clouds import Subset
from geopeft_cli.errors import GeopeftError, UsageError
from geopeft_cli.geometry.local_distance import local_distance, neighborhoods
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.methods import LinearProbeSettings
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.local_distance import LocalDistanceReport
from geopeft_cli.training.precision import choose_device
from geopeft_cli.verbs.inspect import is_recipe
from geopeft_cli.verbs.local_distance_report import Measured, compared
from geopeft_cli.verbs.opening import open_trained


def measure_local_distance(
    target: str,
    overrides: Sequence[str] = (),
    *,
    adapter: Path | None = None,
    compare: Sequence[Path] = (),
    neighbors: int = 4,
    clouds: int = 256,
) -> LocalDistanceReport:
    """Measure the models behind a target after every block, in eval mode, in float32, without augmentation.

    Clouds and their preparation come from the target's recipe: the first of its validation split, or of its test
    split where there is no other. A recipe gives its base model; a run or an adapter its base and itself; a merged
    file itself, and its base where the checkpoint is at hand.

    Args:
        target: a recipe, a run, an adapter, or a merged file.
        overrides: ``key.sub=value`` over the target's recipe.
        adapter: goes with a recipe: a run or an adapter made of the recipe's base.
        compare: further runs, adapters or merged files. Those of the target's base are built on its checkpoint.
        neighbors: k.
        clouds: how many at most.

    Raises:
        GeopeftError: anything foreseeable.
    """
    recipe_given, place = is_recipe(target), Path(target).expanduser()
    if adapter is not None and not recipe_given:
        raise UsageError(f"--adapter goes with a recipe, and {target} is none", "Use --compare.")
    others = [*([] if adapter is None else [adapter]), *compare]
    _refuse_repetitions([*([] if recipe_given else [place]), *others])
    records = {path: _record(path) for path in others}
    lead = None if recipe_given else open_trained(_checked(place), overrides)
    recipe = load_recipe(target, overrides) if lead is None else lead.recipe
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    split, points, labels = _clouds(recipe, clouds)
    measure = _Measure(points, neighbors, choose_device(recipe.training.device))

    base, missing = _base(recipe, labels, None if lead is None else lead.manifest)
    sha256 = base.checkpoint.sha256 if base is not None else ""
    measured = [] if base is None else [measure("base", base.model, sha256)]
    if lead is not None:
        sha256 = lead.manifest.base_sha256
        measured.append(measure(target, lead.model, sha256, lead.manifest))
    for path, record in records.items():
        other = open_trained(path, _location(record, recipe, sha256))
        manifest = other.manifest
        if path is adapter and manifest.base_sha256 != sha256:
            raise UsageError(
                f"{path} was made for another base than {recipe.backbone.checkpoint}",
                "Name its own with backbone.checkpoint=PATH, or give it by --compare.",
            )
        measured.append(measure(str(path), other.model, manifest.base_sha256, manifest))
    return compared(measured, recipe, split, neighbors, missing)


@dataclass(frozen=True)
class _Measure:
    """Figures of a model on given clouds, a list of (B, N, 3)."""

    points: list[Tensor]
    neighbors: int
    device: torch.device

    @torch.no_grad()
    def __call__(self, name: str, model: Backbone, base_sha256: str, manifest: Manifest | None = None) -> Measured:
        model = model.to(self.device).eval()
        figures, centers = [], []
        for points in self.points:
            tokens = model.encode(points.to(self.device), model.fusion_blocks)
            centers.append(tokens.centers.cpu())
            neighbors = neighborhoods(centers[-1], self.neighbors)
            blocks = []
            for index in model.fusion_blocks:
                features = _by_center(tokens, tokens.layers[index]).float().cpu()
                if not features.isfinite().all():
                    raise GeopeftError(
                        f"{name}: features after block {index} are not finite",
                        "The weights have diverged, or a cloud holds values that are not finite.",
                    )
                blocks.append(torch.stack(local_distance(features, neighbors)))
            figures.append(torch.stack(blocks))
        return Measured(name, torch.cat(figures, dim=-1), torch.cat(centers), base_sha256, manifest)


def _by_center(tokens: Tokens, features: Tensor) -> Tensor:
    """(B, G, C), for every center the mean of the features (B, T, C) over its places in the sequence."""
    spatial = tokens.spatial(features)
    slots = tokens.spatial(tokens.slots.expand(len(features), -1).unsqueeze(-1))
    total = spatial.new_zeros(*tokens.centers.shape[:2], spatial.shape[-1])
    count = spatial.new_zeros(*tokens.centers.shape[:2], 1).scatter_add(1, slots, torch.ones_like(spatial[..., :1]))
    return total.scatter_add(1, slots.expand_as(spatial), spatial) / count


def _clouds(recipe: Recipe, count: int) -> tuple[str, list[Tensor], Vocabulary]:
    """Name of the split, its first prepared clouds in batches, and what the labels are called."""
    splits = object_splits(recipe, "--local-distance")
    split, part = "validation", splits.validation
    if part is None or not len(part):
        split, part = "test", splits.test
    chosen = Subset(part, range(min(count, len(part))))
    batches = make_cloud_batches(recipe, chosen, split, training=False, batch_size=recipe.evaluation.batch_size)
    return split, [batch.points for batch in batches.epoch(0)], Vocabulary.of(splits.train)


def _base(recipe: Recipe, labels: Vocabulary, manifest: Manifest | None) -> tuple[Experiment | None, str | None]:
    """The pre-trained model of a recipe without its method, or, for a merged file, the reason why there is none."""
    head = recipe.task.model_copy(update={"head_from": "fresh"})
    plain = recipe.model_copy(update={"method": LinearProbeSettings(name="linear_probe"), "task": head})
    merged = manifest is not None and manifest.merged is not None
    try:
        base = build(plain, labels)
    except GeopeftError as error:
        if not merged:
            raise
        return None, f"the base was not measured: {error.message}"
    if manifest is not None and base.checkpoint.sha256 != manifest.base_sha256:
        return None, f"the base was not measured: {recipe.backbone.checkpoint} holds another model"
    return base, None


def _refuse_repetitions(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        file = (path if path.is_file() else find_adapter(path)).resolve()
        if file in seen:
            raise UsageError(f"{path} is given twice", "Every model is measured once.")
        seen.add(file)


def _checked(path: Path) -> Path:
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(
            f"{path} is not a recipe, a run, an adapter or a merged file",
            "For the base model of a checkpoint, give a recipe and backbone.checkpoint=PATH.",
        )
    return path


def _record(path: Path) -> Manifest | None:
    """What a model says of itself, from the header alone; ``None`` for adapters of another tool."""
    file = _checked(path) if path.is_file() else find_adapter(path) / TENSORS
    text = read_header(file).metadata.get(HEADER_KEY)
    return None if text is None else Manifest.from_text(text, str(file))


def _location(record: Manifest | None, recipe: Recipe, sha256: str) -> list[str]:
    """Overrides with which another model is found on the target's checkpoint, if it was made for that base."""
    backbone = recipe.backbone.model_dump(mode="json")
    if record is None:
        return [f"backbone={json.dumps(backbone)}", f"data={recipe.data.model_dump_json()}"]
    if record.base_sha256 != sha256:
        return []
    return [f"backbone.{key}={json.dumps(backbone[key])}" for key in ("checkpoint", "sha256")]
