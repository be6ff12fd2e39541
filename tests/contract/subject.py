"""A tiny backbone with a method and a head, built from a recipe, and what the tests do with it."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.adapters.directory import adapter_state, save_adapter
from geopeft_cli.assemble import Experiment, build
from geopeft_cli.backbones import backbone_class
from geopeft_cli.contracts import Backbone, memories, official_parameters, official_state
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.training.loop import Outcome, Plan, train

CLASSES = ("chair", "lamp", "table")
CLOUD_POINTS = 64
SEED = 3
TINY = {"width": 32, "depth": 2, "heads": 2, "groups": 8, "group_size": 8, "drop_path": 0.2}
STAGES = {"groups": [16, 8, 6], "group_size": [8, 4, 4], "radius": [0.9, 1.2, 1.5]}
SHAPES = {"widths": [16, 32, 48], "depths": [1, 2, 2]}  # a checkpoint's, which no recipe gives


def clouds(count: int, seed: int = 0) -> Tensor:
    """Random clouds (count, 64, 3) in the unit ball."""
    points = torch.randn(count, CLOUD_POINTS, 3, generator=torch.Generator().manual_seed(seed))
    return points / points.norm(dim=-1).amax(dim=1)[:, None, None]


def tiny_backbone(name: str, **settings: Any) -> Backbone:
    """A backbone with every size that its constructor takes made small."""
    kind = backbone_class(name)
    takes = inspect.signature(kind).parameters
    sizes = tiny_sizes(name) | {key: value for key, value in SHAPES.items() if key in takes}
    return kind(**sizes | {key: value for key, value in settings.items() if key in takes})


def tiny_sizes(name: str) -> dict[str, Any]:
    """What a recipe says to make a backbone small, as far as its constructor takes it."""
    takes = inspect.signature(backbone_class(name)).parameters
    values = TINY | STAGES if "radius" in takes else TINY
    return {key: value for key, value in values.items() if key in takes}


def write_checkpoint(name: str, path: Path, seed: int = 0, **settings: Any) -> Path:
    """An official pre-training file of random values, statistics and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()):  # the same file whatever ran before
        torch.manual_seed(seed)
        backbone = tiny_backbone(name, **settings)
    tensors = {}
    for key, tensor in backbone.state_dict().items():
        if key in backbone.layout.fresh:
            continue
        if tensor.is_floating_point():
            noise = 0.1 * torch.randn(tensor.shape, generator=generator)
            # BatchNorm's variance and every norm's weight stay near 1
            tensor = noise.abs() + 0.9 if key.endswith("running_var") else tensor + noise
        tensors[f"{backbone.layout.prefix}{backbone.layout.file_name(key)}"] = tensor
    torch.save({"base_model": tensors, "epoch": 300}, path)
    return path


class Batches:
    """Two batches of six clouds, the same in every epoch."""

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int) -> Iterator[Any]:
        for step in range(2):
            yield SimpleNamespace(points=clouds(6, seed=10 + step), labels=torch.arange(6) % 3)


class Silent:
    """A listener that stops the run when an epoch begins, if asked."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.stop_before = stop_before

    def epoch_starts(self, epoch: int, epochs: int, steps: int) -> None:
        if epoch == self.stop_before:
            raise KeyboardInterrupt

    def step_done(self, loss: float, accuracy: float, rate: float) -> None: ...
    def epoch_done(self, record: dict[str, Any]) -> None: ...


PLAN = Plan(
    epochs=2,
    lr=1e-2,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=0,
    min_lr=1e-6,
    warmup_lr=1e-6,
    clip_norm=10.0,
    accumulation=1,
    precision="fp32",
    select="last",
    evaluate_every=1,
    checkpoint_every=1,
)


_MOVED: dict[str, Experiment] = {}
_TRAINED: dict[str, tuple[Experiment, Outcome]] = {}


@dataclass
class Subject:
    """One combination of the registries.

    Attributes:
        backbone, method: recipe names.
        checkpoint: an official pre-training file.
        task: the ``task`` section of the recipe.
        settings: the ``method`` section beyond the name; empty for the method's defaults.
    """

    backbone: str
    method: str
    checkpoint: Path
    task: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, checkpoint: Path | None = None) -> Recipe:
        sizes = tiny_sizes(self.backbone)
        return Recipe.model_validate(
            {
                "name": "contract",
                "seed": SEED,
                "data": {"format": "shapes", "points": CLOUD_POINTS},
                "backbone": {"name": self.backbone, "checkpoint": str(checkpoint or self.checkpoint), **sizes},
                "method": {"name": self.method, **self.settings},
                "task": self.task,
            }
        )

    def build(self) -> Experiment:
        """The experiment of the recipe; what its method remembers is of a few clouds."""
        experiment = build(self.recipe(), CLASSES)
        for memory in memories(experiment.model).values():
            memory.fill(memory.describe(clouds(12, seed=20)), torch.arange(12) % len(CLASSES))
        return experiment

    def perturbed(self, seed: int = 5) -> Experiment:
        """A model whose trainable tensors have moved, so that nothing of the method is zero any more."""
        experiment = self.build()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in trainable(experiment.model).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        experiment.model.eval()
        return experiment

    def moved(self) -> Experiment:
        """That of :meth:`perturbed`, built once for all tests that only read it."""
        if repr(self) not in _MOVED:
            _MOVED[repr(self)] = self.perturbed()
        return _MOVED[repr(self)]

    def trained(self) -> tuple[Experiment, Outcome]:
        """A whole run, made once for all tests that only read its result."""
        if repr(self) not in _TRAINED:
            with tempfile.TemporaryDirectory() as folder:
                _TRAINED[repr(self)] = self.train(Path(folder))
        return _TRAINED[repr(self)]

    def train(self, folder: Path, stop_before: int | None = None) -> tuple[Experiment, Outcome]:
        experiment = self.build()
        outcome = train(
            experiment.model,
            experiment.method,
            experiment.task,
            Batches(),
            PLAN,
            device=torch.device("cpu"),
            folder=folder,
            collect=lambda: adapter_state(experiment.model, experiment.fresh),
            evaluate=None,
            listener=Silent(stop_before),
            ranks=Ranks(),
            recipe_digest="",
            seed=SEED,
        )
        return experiment, outcome


def saved(experiment: Experiment, folder: Path) -> Path:
    """The adapter directory of an experiment."""
    tensors, method = adapter_state(experiment.model, experiment.fresh), experiment.method
    save_adapter(folder, experiment.model, tensors, experiment.record(), method.name, method.settings(), "card")
    return folder


def trainable(model: Backbone) -> dict[str, torch.nn.Parameter]:
    """What trains, by official name."""
    return {name: p for name, p in official_parameters(model).items() if p.requires_grad}


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def base_state(experiment: Experiment) -> dict[str, Tensor]:
    """The tensors of the model that are frozen and came from the checkpoint, statistics included."""
    adapter = adapter_state(experiment.model, experiment.fresh)
    state = official_state(experiment.model)
    return {name: state[name] for name in experiment.checkpoint.backbone if name not in adapter}


@torch.no_grad()
def logits(model: Backbone, points: Tensor) -> Tensor:
    model.eval()
    return model(points)  # type: ignore[no-any-return]
