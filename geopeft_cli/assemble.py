"""From a recipe, or from an adapter, to a model and its data: the only room that sees all the others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geopeft_cli.adapters.directory import StoredAdapter, load_adapter
from geopeft_cli.adapters.manifest import Manifest, label_names
from geopeft_cli.adapters.merge import foldable_layers, mode_of, put_layer
from geopeft_cli.backbones import backbone_class
from geopeft_cli.backbones.checkpoint import (
    Checkpoint,
    fingerprint,
    infer_sizes,
    load_backbone,
    load_head,
    read_checkpoint,
)
from geopeft_cli.backbones.files import read_tensors
from geopeft_cli.contracts import Backbone, Method, Task, Vocabulary, load_official_state, memories, official_state
from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import IGNORED, CloudSet, Labels, Splits
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.s3dis_blocks import S3DISBlocks
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import AdapterError, UsageError
from geopeft_cli.methods import method_class
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.tasks import task_class
from geopeft_cli.training.schedule import OwnGroup, epochs_run

PREPARATION = ("points", "normalize", "sampling", "augment", "on_error")


@dataclass
class Experiment:
    """A recipe made real: the backbone is the root module, with the method's layers and the task's head in it."""

    recipe: Recipe
    model: Backbone
    method: Method
    task: Task
    checkpoint: Checkpoint
    fresh: tuple[str, ...]

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def total_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def record(self, **details: Any) -> Manifest:
        """What an adapter made from this says of itself.

        Args:
            details: the fields of :class:`Manifest` that are about training, such as ``selection``.
        """
        return Manifest(
            recipe=self.recipe.model_dump(mode="json"),
            **label_names(self.task.settings()),
            backbone=self.model.settings(),
            base_sha256=self.checkpoint.sha256,
            fresh=list(self.fresh),
            total_parameters=self.total_parameters,
            trainable_parameters=self.trainable_parameters,
            **details,
        )

    @property
    def own_groups(self) -> tuple[OwnGroup, ...]:
        """The parameters to which the recipe gives a rate or a decay of their own."""
        return tuple(OwnGroup(**group.model_dump()) for group in self.recipe.training.groups)


def load_splits(recipe: Recipe) -> Splits:
    """The clouds of a recipe, in parts."""
    values = recipe.data.model_dump()
    source = {key: value for key, value in values.items() if key not in PREPARATION}
    if recipe.data.format == "folder":
        source |= {"points": recipe.data.points, "on_error": recipe.data.on_error}
    if recipe.data.format in ("shapes", "s3dis_blocks"):
        source |= {"points": recipe.data.points}
    if recipe.data.format != "shapes":
        source |= {"seed": recipe.seed}
    return splits_for(**source)


def make_preparation(recipe: Recipe) -> Preparation:
    """How a recipe's clouds are normalized and their points drawn."""
    data = recipe.data
    return Preparation(data.points, data.normalize, data.sampling, recipe.backbone.near_origin)


def make_batches(recipe: Recipe, clouds: CloudSet, purpose: str, *, training: bool, batch_size: int) -> Batches:
    """Batches of prepared clouds; ``purpose`` names the part and keys its random draws."""
    return Batches(
        clouds,
        make_preparation(recipe),
        batch_size=batch_size,
        seed=recipe.seed,
        augment=recipe.data.augment if training else (),
        training=training,
        purpose=purpose,
    )


def point_counts(clouds: CloudSet) -> Labels:
    """How many points of each label a set has, int64 (labels,)."""
    if isinstance(clouds, S3DISBlocks):
        return clouds.point_counts()
    count = len(clouds.part_names)
    counts = np.zeros(count, dtype=np.int64)
    for index in range(len(clouds)):
        labels = clouds[index].point_labels
        assert labels is not None
        counts += np.bincount(labels[labels != IGNORED], minlength=count)
    return counts


def read_base(recipe: Recipe) -> Checkpoint:
    """The checkpoint of a recipe.

    Raises:
        UsageError, CheckpointError: it is not there, or it is damaged or of another network.
    """
    section = recipe.backbone
    layout = backbone_class(section.name).layout
    dense = task_class(recipe.task.name).is_dense
    return read_checkpoint(section.checkpoint, section.name, layout, section.sha256, dense)


def build(
    recipe: Recipe,
    labels: Vocabulary | Sequence[str],
    manifest: Manifest | None = None,
    base: Checkpoint | None = None,
) -> Experiment:
    """The model of a recipe: checkpoint, method, head, and what trains. Draws from torch's seeded generator.

    Args:
        recipe: what to build.
        labels: what they are called; class names alone where points have none.
        manifest: the record of the adapter that the model is built for.
        base: the checkpoint of the recipe, where it has been read before.

    Raises:
        UsageError, CheckpointError: what the recipe asks for is not there or does not fit.
    """
    section = recipe.backbone
    kind = backbone_class(section.name)
    checkpoint = base or read_base(recipe)
    sizes = infer_sizes(checkpoint, {"width": section.width, "depth": section.depth, "heads": section.heads})
    torch.manual_seed(recipe.seed)
    backbone = kind(**sizes, **_options(kind, recipe))
    if recipe.data.points < backbone.fewest_points:
        raise UsageError(
            f"data.points: {recipe.data.points} is fewer than backbone.groups {section.groups} "
            f"or backbone.group_size {section.group_size}"
        )
    fresh = load_backbone(backbone, checkpoint)
    backbone.requires_grad_(False)
    method = _make_method(recipe, manifest)
    method.attach(backbone)
    task = _make_task(recipe, labels)
    task.attach(backbone)
    if recipe.task.head_from == "checkpoint":
        load_head(backbone, checkpoint)
    for name in backbone.token_names:
        backbone.get_parameter(name).requires_grad_(_tokens_train(recipe, method, fresh))
    return Experiment(recipe, backbone, method, task, checkpoint, fresh)


def rebuild(recipe: Recipe, adapter: StoredAdapter, base: Checkpoint | None = None) -> Experiment:
    """The model of an adapter, on its base.

    Args:
        recipe: the adapter's own, perhaps with another checkpoint location or other data.
        adapter: as read.
        base: the adapter's own, where it has been read and found to be that before.

    Raises:
        AdapterError: the base is another one, or the tensors do not fit.
    """
    manifest = adapter.manifest
    if manifest is None:
        raise AdapterError(f"{adapter.folder} has no record of geopeft")
    experiment = build(recipe, Vocabulary.of(manifest), manifest, base)
    if base is None and experiment.checkpoint.sha256 != manifest.base_sha256:
        raise AdapterError(
            f"{adapter.folder} was made for a base with SHA-256 {manifest.base_sha256[:12]}…, "
            f"{experiment.checkpoint.location} has {experiment.checkpoint.sha256[:12]}…",
            "Give its own base with backbone.checkpoint=PATH.",
        )
    load_adapter(experiment.model, adapter.tensors, experiment.fresh, str(adapter.folder))
    if manifest.memory is not None:
        _check_memory(experiment.model, manifest.memory, str(adapter.folder))
    experiment.model.eval()
    return experiment


def _check_memory(model: Backbone, record: Mapping[str, Any], source: str) -> None:
    """Stop a memory that is not the one of the record, or that another network than the present one described."""
    for path, memory in memories(model).items():
        found = {
            "sha256": fingerprint({"columns": memory.columns}),
            "network_sha256": fingerprint(memory.sources()),
        }
        for key, what in (("sha256", "holds another memory"), ("network_sha256", "was described by another network")):
            if record[key] != found[key]:
                raise AdapterError(
                    f"{source}: {path} {what} than its record says",
                    "Copy or make the adapter again, or give its own base.",
                )


def skeleton(manifest: Manifest, recipe: Recipe) -> Backbone:
    """The adapted model that a record describes, without its weights."""
    model = backbone_class(recipe.backbone.name)(**manifest.backbone)
    _make_method(recipe, manifest).attach(model)
    _make_task(recipe, Vocabulary.of(manifest)).attach(model)
    return model


def rebuild_merged(path: Path, manifest: Manifest, recipe: Recipe) -> Backbone:
    """The model in a merged file, which holds all of its tensors.

    Raises:
        AdapterError: a tensor is missing, left over, or of another shape.
    """
    model = skeleton(manifest, recipe)
    for name, layer in foldable_layers(model).items():
        put_layer(model, name, layer.folded(mode_of(layer, (manifest.merged or {})["mode"])))
    tensors = {model.layout.own_name(name): tensor for name, tensor in read_tensors(path).items()}
    own = official_state(model)
    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in own.items()}:
        odd = sorted(set(tensors) ^ set(own)) or [n for n in own if own[n].shape != tensors[n].shape]
        raise AdapterError(f"{path} does not hold the model that its record describes: {', '.join(odd[:4])}")
    load_official_state(model, tensors)
    model.requires_grad_(False).eval()
    return model


def _options(kind: type[Backbone], recipe: Recipe) -> dict[str, Any]:
    """What of the recipe's backbone section its constructor takes; what is left out has the network's own default."""
    names = ("groups", "group_size", "radius", "pooling", "drop_path", "near_origin", "reconstruction")
    takes = inspect.signature(kind).parameters
    values = {name: getattr(recipe.backbone, name) for name in (*names, "dropout", "variant") if name in takes}
    if task_class(recipe.task.name).is_dense:
        values["dense"] = True
    return {name: value for name, value in values.items() if value is not None}


def _make_task(recipe: Recipe, labels: Vocabulary | Sequence[str]) -> Task:
    if not isinstance(labels, Vocabulary):
        labels = Vocabulary(tuple(labels))
    kind = task_class(recipe.task.name)
    if kind.is_dense:
        return kind(labels.classes, labels.part_names, labels.parts)  # type: ignore[call-arg]
    values = recipe.task.model_dump(exclude={"name", "head_from"})
    return kind(classes=labels.classes, **values)  # type: ignore[call-arg]


def _make_method(recipe: Recipe, manifest: Manifest | None = None) -> Method:
    """The method of a recipe, for an adapter as it was in the epoch that was kept."""
    values: Mapping[str, Any] = recipe.method.model_dump(exclude={"name", "tokens"})
    method = method_class(recipe.method.name)(**values)
    if manifest is not None and "epoch" in manifest.selection:
        training = manifest.recipe["training"]
        method.start_epoch(manifest.selection["epoch"], epochs_run(training["schedule"], training["epochs"]))
    return method


def _tokens_train(recipe: Recipe, method: Method, fresh: Sequence[str]) -> bool:
    if recipe.method.tokens != "auto":
        return recipe.method.tokens == "train"
    return method.trains_tokens == "always" or bool(fresh)
