"""What ``inspect`` finds out by building a model or trying a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import label_names
from geopeft_cli.assemble import Experiment
from geopeft_cli.backbones import BACKBONES, SCENE_BACKBONES, backbone_class, scene_backbone_class
from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.layouts import Identity
from geopeft_cli.backbones.scene_checkpoint import scene_settings
from geopeft_cli.contracts import Backbone, SceneBackbone, Scenes, memories, official_parameters
from geopeft_cli.data.clouds import CloudSet
from geopeft_cli.data.scene_batches import SceneBatch
from geopeft_cli.errors import GeopeftError
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.objective import training_loss
from geopeft_cli.reports.parameters import ParameterTable, parameter_table, structure_warnings
from geopeft_cli.tasks.fusion import Fusion
from geopeft_cli.training.schedule import parameter_groups


def model_table(experiment: Experiment) -> ParameterTable:
    """Parameters of a built model by site."""
    parameters = official_parameters(experiment.model)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    table = parameter_table(shapes, {name for name, parameter in parameters.items() if parameter.requires_grad})
    table.warnings = structure_warnings(shapes, experiment.recipe.method.model_dump())
    return table


def monarch_structure(model: Backbone) -> list[str]:
    """A line for each shape of Monarch factors: layer sizes, blocks, padding, share of entries that may be nonzero."""
    lines = []
    for factors in model.modules():
        if isinstance(factors, MonarchFactors):
            padding = f", padded by {' and '.join(map(str, factors.padding))}" if any(factors.padding) else ""
            lines.append(
                f"{factors.inputs} -> {factors.outputs}: {factors.blocks} blocks, p {factors.p}, q {factors.q}, "
                f"s {factors.s}{padding}, {100 * factors.nonzero_fraction:.3g} % not zero by structure"
            )
    return list(dict.fromkeys(lines))


def fused_blocks(model: Backbone) -> str:
    """Which blocks, counted from 0, are fused before the head, in words."""
    layers = [layer for module in model.children() if isinstance(module, Fusion) for layer in module.layers]
    return f"blocks {', '.join(map(str, layers))}" if layers else "none"


def remembered_clouds(experiment: Experiment, clouds: CloudSet) -> str:
    """What will be remembered of the training clouds, in words; empty for methods that remember nothing."""
    for memory in memories(experiment.model).values():
        memory.fill(torch.ones(len(clouds), memory.columns.shape[0]), torch.from_numpy(clouds.labels()))
        width, count = memory.columns.shape
        size = memory.columns.numel() * memory.columns.element_size()
        return f"{count} columns x {width} of {len(clouds)} training clouds, {size / 1e6:.2f} MB, built by finetune"
    return ""


def rates_in_words(experiment: Experiment) -> list[str]:
    """A line for each group of parameters that has a rate or a decay of its own, and for the others; else nothing."""
    settings, own = experiment.recipe.training, experiment.own_groups
    groups = parameter_groups(experiment.model, settings.weight_decay, own)
    return [
        f"{group['match']}: {sum(p.numel() for p in group['params']):,} parameters, "
        f"lr {settings.lr * group['lr_scale']:.4g}, weight decay {group['weight_decay']:g}"
        for group in groups
        if own and group["params"]
    ]


class _RandomBatch(NamedTuple):
    points: Tensor
    labels: Tensor
    point_labels: Tensor


def dead_parameters(experiment: Experiment, steps: int = 3) -> list[str]:
    """Trainable tensors that no gradient reaches in a few steps on random clouds; the model is changed by them."""
    model, task = experiment.model.train(), experiment.task
    parameters = {name: p for name, p in official_parameters(model).items() if p.requires_grad}
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-2)
    reached: set[str] = set()
    generator = torch.Generator().manual_seed(0)
    counts = {name: len(found) for name, found in label_names(task.settings()).items()}
    clouds = 64 * counts["classes"]
    for memory in memories(model).values():  # of no clouds: only what is reached counts
        memory.fill(torch.randn(clouds, memory.columns.shape[0], generator=generator), torch.arange(clouds))
    for _ in range(steps):
        batch = _random_batch(experiment, counts, generator)
        points = batch.points
        optimizer.zero_grad()
        training_loss(model, task, points, task.targets(batch), *task.conditions(batch))[0].backward()
        optimizer.step()
        reached |= {name for name, p in parameters.items() if p.grad is not None and bool(p.grad.any())}
    return [name for name in parameters if name not in reached]


def _random_batch(experiment: Experiment, counts: Mapping[str, int], generator: torch.Generator) -> Any:
    """Clouds, or two scenes, with random labels."""
    model = experiment.model
    if isinstance(model, SceneBackbone):
        voxels = torch.randint(16, (400, 3), generator=generator)
        features = torch.rand(len(voxels), model.in_channels, generator=generator)
        scenes = Scenes(voxels.float(), voxels, features, torch.tensor([0, len(voxels) // 2, len(voxels)]))
        return SceneBatch(scenes, torch.randint(counts["classes"], (len(voxels),), generator=generator), ())
    points = torch.rand(4, experiment.recipe.objects.points, 3, generator=generator) - 0.5
    labels = torch.randint(counts["classes"], (4,), generator=generator)
    return _RandomBatch(
        points, labels, torch.randint(counts.get("part_names", 1), points.shape[:2], generator=generator)
    )


def loadability(path: Path, identity: Identity) -> str:
    """``yes`` with the tensors that start fresh, or the reason why the file does not load."""
    if identity.backbone in SCENE_BACKBONES:
        return _scene_loadability(path, identity)
    if identity.backbone not in BACKBONES:
        return f"no: {identity.title} is not among the backbones of this version ({', '.join(BACKBONES)})"
    kind, dense = backbone_class(identity.backbone), identity.stage in ("part_segmentation", "scene_segmentation")
    try:
        checkpoint = read_checkpoint(str(path), identity.backbone, kind.layout, dense=dense)
        backbone = kind(**infer_sizes(checkpoint, {}), **({"dense": True} if dense else {}))
        fresh = load_backbone(backbone, checkpoint)
    except GeopeftError as error:
        return f"no: {error.message}"
    head = f"; has a head for {identity.classes} classes" if identity.classes else ""
    purpose = f" for {identity.stage.replace('_', ' ')}" if dense else ""
    return f"yes, as {identity.backbone}{purpose}{head}" + (f"; starts fresh: {', '.join(fresh)}" if fresh else "")


def _scene_loadability(path: Path, identity: Identity) -> str:
    """The same for networks that read scenes."""
    assert identity.backbone is not None
    kind = scene_backbone_class(identity.backbone)
    try:
        checkpoint = read_checkpoint(str(path), identity.backbone, kind.layout)
        fresh = load_backbone(kind(**scene_settings(checkpoint)), checkpoint)
    except GeopeftError as error:
        return f"no: {error.message}"
    head = f"; has a head for {identity.classes} classes" if identity.classes else ""
    starts = f"; starts fresh: {', '.join(fresh)}" if fresh else ""
    return f"yes, as {identity.backbone}{head}{starts}"
