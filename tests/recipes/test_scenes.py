"""The recipes of Sonata, on a tiny checkpoint in place of the published one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from geopeft_cli.assemble.model import Experiment, build
from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.contracts import official_name, official_state
from geopeft_cli.recipe.backbones import SceneBackboneSection
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.comparison import Member, Row
from geopeft_cli.training.schedule import parameter_groups

ROOT = Path(__file__).resolve().parents[2] / "recipes" / "voxel_segmentation"
NAMES = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("sonata_*.yaml"))
SIZES = {"widths": (8, 12, 16), "depths": (1, 1, 1), "heads": (2, 2, 4), "decoder_widths": (), "decoder_depths": ()}
METRICS = {"mIoU", "mean class accuracy", "accuracy"}
Build = Callable[[str], Experiment]


@cache
def loaded(name: str) -> Recipe:
    return load_recipe(ROOT / f"{name}.yaml")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes the model of a recipe, once for all recipes of the same network and method."""
    model = Sonata(9, **SIZES)  # type: ignore[arg-type]
    words = {"enc_channels": model.widths, "enc_depths": model.depths, "enc_num_head": model.heads, "in_channels": 9}
    path = tmp_path_factory.mktemp("sonata") / "sonata.pth"
    torch.save({"config": words, "state_dict": official_state(model)}, path)
    made: dict[str, Experiment] = {}

    def find(name: str) -> Experiment:
        recipe = loaded(name)
        backbone = recipe.backbone.model_copy(update={"checkpoint": str(path)})
        recipe = recipe.model_copy(update={"backbone": backbone})
        key = f"{recipe.backbone} {recipe.method} {recipe.data.format == 'semantic_kitti'}"
        if key not in made:
            made[key] = build(recipe, ("floor", "wall"))
        return replace(made[key], recipe=recipe)

    return find


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_of_scenes_fits_its_network(name: str, built: Build) -> None:
    experiment = built(name)
    recipe, training = experiment.recipe, experiment.recipe.training
    groups = parameter_groups(experiment.model, training.weight_decay, experiment.own_groups)
    assert sum(p.numel() for group in groups for p in group["params"]) == experiment.trainable_parameters
    assert not any(group["params"] for group in groups[len(training.groups) :]), "decay is a rule for all parameters"
    assert isinstance(recipe.backbone, SceneBackboneSection)
    assert training.batch_size % 2 == 0, "Mix3D makes one scene of two"
    assert training.select == "last"
    figure = Row(recipe.name, "miou", [Member(recipe, Path())]).published
    assert figure == (recipe.published[0] if recipe.published else None)
    assert {entry.metric.partition(",")[0] for entry in recipe.published} <= METRICS
    assert figure is None or "where this recipe takes the last" in figure.protocol


def test_a_new_decoder_trains_at_the_rates_of_decoder_probing(built: Build) -> None:
    experiment = built("scannet/sonata_gem_decoder")
    groups = parameter_groups(experiment.model, 0, experiment.own_groups)
    names = {parameter: official_name(name) for name, parameter in experiment.model.named_parameters()}
    rules = {names[p]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rules["gem.latents"] == (1, 0)
    assert rules["enc.enc0.block0.gem.spatial.down.weight"] == (1, 0.02)
    assert rules["dec.dec0.block0.mlp.0.fc1.bias"] == (0.1, 0.02)
    assert rules["dec.dec0.up.proj.0.weight"] == (1, 0.02)
    assert "enc.enc0.block0.mlp.0.fc1.bias" not in rules


def test_a_new_first_layer_reads_lidar_and_trains(built: Build) -> None:
    experiment = built("semantic_kitti/sonata_linear_probe")
    trained = {official_name(name): p for name, p in experiment.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"embedding", "seg_head"}
    assert trained["embedding.stem.linear.weight"].shape == (8, 4)


def test_the_page_quotes_what_the_recipes_hold() -> None:
    page = (ROOT.parents[1] / "docs" / "scene_recipes.md").read_text(encoding="utf-8")
    lines = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if "|" in line]
    sets = lines[0]
    told = {(sets[at], row[0]): cell for row in lines if row[0].startswith("sonata_") for at, cell in enumerate(row)}
    for name in NAMES:
        folder, _, stem = name.partition("/")
        published = loaded(name).published
        assert told[folder, stem] == (str(published[0].value) if published else "-"), name
