"""From a recipe, or from an adapter, to a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from geopeft_cli.backbones.scene_checkpoint import restarted, scene_arguments
from geopeft_cli.contracts import (
    Backbone,
    Method,
    SceneBackbone,
    Task,
    Vocabulary,
    load_official_state,
    memories,
    official_parameters,
    official_state,
)
from geopeft_cli.data.scene_batches import feature_width
from geopeft_cli.errors import AdapterError, UsageError
from geopeft_cli.methods import method_class
from geopeft_cli.recipe.backbones import ObjectBackboneSection, SceneBackboneSection
from geopeft_cli.recipe.scene_data import SceneDataSettings
from geopeft_cli.recipe.schema import PartSegmentationTask, Recipe, SceneSegmentationTask, VoxelSegmentationTask
from geopeft_cli.tasks import task_class
from geopeft_cli.training.schedule import OwnGroup, epochs_run


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


def read_base(recipe: Recipe) -> Checkpoint:
    """The checkpoint of a recipe.

    Raises:
        UsageError, CheckpointError: it is not there, or it is damaged or of another network.
    """
    section = recipe.backbone
    kind = backbone_class(section.name)
    if not isinstance(section, SceneBackboneSection):
        dense = task_class(recipe.task.name).is_dense
        return read_checkpoint(section.checkpoint, section.name, kind.layout, section.sha256, dense)
    assert issubclass(kind, SceneBackbone)
    parts = {"dec.": section.decoder, kind.stem: section.stem}
    checkpoint = read_checkpoint(section.checkpoint, section.name, kind.layout, section.sha256)
    fresh = [part for part, source in parts.items() if source == "fresh"]
    return restarted(checkpoint, fresh) if fresh else checkpoint


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
    checkpoint = base or read_base(recipe)
    torch.manual_seed(recipe.seed)
    backbone = _make_backbone(recipe, checkpoint)
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
    if isinstance(backbone, SceneBackbone):
        for name, parameter in official_parameters(backbone).items():
            if name in fresh:  # a new decoder or first layer trains as a head does
                parameter.requires_grad_(True)
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


def _make_backbone(recipe: Recipe, checkpoint: Checkpoint) -> Backbone:
    """The network of a recipe, of the sizes of its checkpoint, with initial values."""
    section, kind = recipe.backbone, backbone_class(recipe.backbone.name)
    if isinstance(section, SceneBackboneSection):
        assert isinstance(recipe.data, SceneDataSettings)
        options = section.model_dump(exclude={"name", "checkpoint", "sha256", "decoder", "stem"})
        parts = {"new_decoder": section.decoder == "fresh", "new_stem": section.stem == "fresh"}
        return kind(**scene_arguments(checkpoint, feature_width(recipe.data.features), **parts, **options))
    sizes = infer_sizes(checkpoint, {"width": section.width, "depth": section.depth, "heads": section.heads})
    backbone = kind(**sizes, **_options(kind, section, dense=task_class(recipe.task.name).is_dense))
    assert not isinstance(recipe.data, SceneDataSettings)
    if recipe.data.points < backbone.fewest_points:
        raise UsageError(
            f"data.points: {recipe.data.points} is fewer than backbone.groups {section.groups} "
            f"or backbone.group_size {section.group_size}"
        )
    return backbone


def _options(kind: type[Backbone], section: ObjectBackboneSection, dense: bool) -> dict[str, Any]:
    """What of the recipe's backbone section its constructor takes; what is left out has the network's own default."""
    names = ("groups", "group_size", "radius", "pooling", "drop_path", "near_origin", "reconstruction")
    takes = inspect.signature(kind).parameters
    values = {name: getattr(section, name) for name in (*names, "dropout", "variant") if name in takes}
    if dense:
        values["dense"] = True
    return {name: value for name, value in values.items() if value is not None}


def _make_task(recipe: Recipe, labels: Vocabulary | Sequence[str]) -> Task:
    if not isinstance(labels, Vocabulary):
        labels = Vocabulary(tuple(labels))
    kind = task_class(recipe.task.name)
    if isinstance(recipe.task, PartSegmentationTask | SceneSegmentationTask):
        return kind(labels.classes, labels.part_names, labels.parts)  # type: ignore[call-arg]
    of_training = {"class_weights"} if isinstance(recipe.task, VoxelSegmentationTask) else set()
    values = recipe.task.model_dump(exclude={"name", "head_from", *of_training})
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
