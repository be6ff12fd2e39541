"""A label a point: every method on two backbones, and every segmentation model with LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.conftest import FORMS
from contract.subject import (
    SEED,
    clouds,
    copied,
    same_bits,
    saved,
    tiny_backbone,
    tiny_sizes,
    trainable,
    write_checkpoint,
)
from geopeft_cli.adapters.directory import adapter_state, read_adapter
from geopeft_cli.adapters.merge import merge
from geopeft_cli.assemble import Experiment, build, rebuild
from geopeft_cli.contracts import (
    Backbone,
    Foldable,
    Vocabulary,
    Wrapper,
    load_official_state,
    memories,
    official_state,
)
from geopeft_cli.errors import MergeError
from geopeft_cli.objective import training_loss
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.tasks import task_class

VOCABULARY = Vocabulary(
    ("chair", "lamp"), ("leg", "seat", "foot", "pole", "shade"), {"chair": (0, 1), "lamp": (2, 3, 4)}
)
CATEGORIES = torch.tensor([0, 1, 1, 0])
POINTS = clouds(4, seed=1)
DEEPER = {"depth": 3}  # the heads read three layers
MODELS = ("act", "point_bert", "point_gpt", "point_m2ae", "point_mae", "recon")


@dataclass(frozen=True)
class Batch:
    points: Tensor
    labels: Tensor
    point_labels: Tensor


def batch(seed: int = 0) -> Batch:
    """Four clouds whose points have labels of their categories' parts."""
    points = clouds(4, seed=10 + seed)
    low = torch.where(CATEGORIES == 0, 0, 2)[:, None]
    return Batch(points, CATEGORIES, low + (points[..., 0] > 0).long())


def dense_file(name: str, folder: Path) -> Path:
    return write_checkpoint(name, folder / f"{name}.pth", dense=True, **DEEPER)


def recipe(
    name: str, checkpoint: Path, method: tuple[str, Mapping[str, Any]], task: str = "part_segmentation"
) -> Recipe:
    sizes = tiny_sizes(name) | ({} if name == "point_m2ae" else DEEPER)
    return Recipe.model_validate(
        {
            "name": "contract",
            "seed": SEED,
            "data": {"format": "packed", "path": "unread.npz", "points": POINTS.shape[1]},
            "backbone": {"name": name, "checkpoint": str(checkpoint), **sizes},
            "method": {"name": method[0], **method[1]},
            "task": {"name": task},
        }
    )


@torch.no_grad()
def logits(model: Backbone, points: Tensor = POINTS, categories: Tensor | None = CATEGORIES) -> Tensor:
    model.eval()
    return model(points, categories)  # type: ignore[no-any-return]


def moved(experiment: Experiment) -> Experiment:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(experiment.model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return experiment


def without_method(experiment: Experiment) -> Backbone:
    model = experiment.model
    plain = tiny_backbone(model.name, dense=True, **DEEPER)
    task_class(experiment.task.name)(**experiment.task.settings()).attach(plain)
    state = official_state(model)
    load_official_state(plain, {name: state[name] for name in official_state(plain)})
    load_official_state(plain, experiment.checkpoint.backbone)
    return plain.requires_grad_(False)


def is_foldable(experiment: Experiment) -> bool:
    return all(isinstance(m, Foldable) for m in experiment.model.modules() if isinstance(m, Wrapper))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dense")
    return {name: dense_file(name, folder) for name in MODELS}


PLAIN = {name: (method, settings) for name, (method, settings, task) in FORMS.items() if not task}
COMBINATIONS = [(name, form) for name in ("point_mae", "recon") for form in sorted(PLAIN)]
COMBINATIONS += [
    (name, form) for name in MODELS if name not in ("point_mae", "recon") for form in ("lora", "point_peft")
]


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def experiment(request: pytest.FixtureRequest, files: dict[str, Path]) -> Experiment:
    name, form = request.param
    made = build(recipe(name, files[name], PLAIN[form]), VOCABULARY)
    for memory in memories(made.model).values():
        memory.fill(memory.describe(clouds(12, seed=20)), torch.arange(12) % 2)
    return made


def test_a_fresh_adapter_changes_no_bit_unless_its_definition_says_so(experiment: Experiment) -> None:
    unchanged = torch.equal(logits(experiment.model), logits(without_method(experiment)))
    assert unchanged == experiment.method.is_identity_at_start


def test_a_cloud_alone_and_in_another_order_gets_the_same_labels(experiment: Experiment) -> None:
    model = moved(experiment).model
    together = logits(model)
    assert together.shape == (4, 64, 5)
    assert together.std() > 0.01
    alone = torch.cat([logits(model, POINTS[[one]], CATEGORIES[[one]]) for one in range(4)])
    bound = 1e-5 * max(1.0, float(together.abs().max()))
    torch.testing.assert_close(alone, together, atol=bound, rtol=0)
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(logits(model, POINTS[order], CATEGORIES[order]), together[order], atol=bound, rtol=0)


def test_the_category_matters_and_is_not_needed(experiment: Experiment) -> None:
    model = moved(experiment).model
    assert (logits(model, categories=1 - CATEGORIES) - logits(model)).abs().max() > 1e-4
    assert logits(model, categories=None).isfinite().all()


def test_what_trains_gets_a_gradient_and_nothing_else_moves(experiment: Experiment) -> None:
    model, task = experiment.model, experiment.task
    declared = trainable(model)
    before = copied(official_state(model))
    optimizer = torch.optim.SGD(declared.values(), lr=0.1)
    reached: set[str] = set()
    for step in range(2):
        model.train()
        given = batch(step)
        training_loss(model, task, given.points, task.targets(given), *task.conditions(given))[0].backward()
        reached |= {name for name, p in declared.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert set(declared) == reached
    held = set(adapter_state(model, experiment.fresh))
    state = official_state(model)
    assert [name for name in before if not torch.equal(before[name], state[name]) and name not in held] == []


def test_the_same_bits_come_back(experiment: Experiment, tmp_path: Path) -> None:
    moved(experiment)
    stored = read_adapter(saved(experiment, tmp_path / "adapter"))
    assert stored.manifest is not None
    assert Vocabulary.of(stored.manifest) == Vocabulary(
        VOCABULARY.classes, VOCABULARY.part_names, {name: list(own) for name, own in VOCABULARY.parts.items()}
    )
    loaded = rebuild(experiment.recipe, stored)
    assert same_bits(official_state(loaded.model), official_state(experiment.model))
    assert torch.equal(logits(loaded.model), logits(experiment.model))


def test_merging_keeps_the_labels_or_is_refused(experiment: Experiment) -> None:
    if not is_foldable(experiment):
        with pytest.raises(MergeError, match="cannot be merged into the weights"):
            merge(experiment.model.eval(), "auto", [POINTS])
        return
    result = merge(moved(experiment).model.eval(), "auto", [POINTS])
    expected = logits(experiment.model)
    torch.testing.assert_close(logits(result.model), expected, atol=1e-5 * max(1.0, float(expected.std())), rtol=1e-5)


@pytest.mark.parametrize("name", ["act", "point_m2ae"])
def test_scenes_have_no_categories(files: dict[str, Path], name: str) -> None:
    rooms = Vocabulary(("scene",), ("floor", "wall", "chair"), {"scene": (0, 1, 2)})
    found = build(recipe(name, files[name], ("lora", {}), "scene_segmentation"), rooms)
    assert found.task.conditions(batch()) == ()
    assert logits(found.model, categories=None).shape == (4, 64, 3)
    assert not hasattr(found.model, "label_conv")
