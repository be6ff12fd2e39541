"""Sections that do not fit each other: methods and networks, selection and splits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.problems import RecipeError

Problems = Callable[..., list[str]]
Write = Callable[[dict[str, str]], None]

HEAD = "name: x\ndata: {format: shapes}\nbackbone: {checkpoint: a.pth}\nmethod: {name: full}\n"


def test_point_peft_remembers_objects_and_no_scenes(write: Write) -> None:
    recipe = HEAD.replace("{format: shapes}", "{format: packed, path: x}")
    write({"r.yaml": recipe.replace("{name: full}", "{name: point_peft}\ntask: {name: scene_segmentation}")})
    with pytest.raises(RecipeError, match="bank must be false for scene_segmentation"):
        load_recipe("r.yaml")
    for change in ("method.bank=false", "method.prompt=false", "task.name=part_segmentation"):
        assert load_recipe("r.yaml", [change]).method.name == "point_peft"


@pytest.mark.parametrize("method", ["point_peft", "gem", "prompt"])
@pytest.mark.parametrize("name", ["mamba3d", "point_mamba"])
def test_methods_for_transformer_blocks_need_some(write: Write, name: str, method: str) -> None:
    recipe = HEAD.replace("{name: full}", f"{{name: {method}}}").replace("{checkpoint", f"{{name: {name}, checkpoint")
    write({"r.yaml": recipe})
    with pytest.raises(RecipeError, match=f"method.name is {method}, .* transformer blocks, and {name} has none"):
        load_recipe("r.yaml")


def test_gem_adapts_something_with_odd_kernels(write: Write) -> None:
    write({"r.yaml": HEAD.replace("{name: full}", "{name: gem, stages: [0, 1]}")})
    assert load_recipe("r.yaml", ["method.context=false"]).method.name == "gem"
    with pytest.raises(RecipeError, match=r"method.context must be true where spatial is false"):
        load_recipe("r.yaml", ["method.context=false", "method.spatial=false"])
    with pytest.raises(RecipeError, match=r"method.kernel must be odd, is 4"):
        load_recipe("r.yaml", ["method.kernel=4"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{checkpoint: a.pth, variant: released}",
            "backbone.variant is for mamba3d and point_mamba, not for point_mae",
        ),
        (
            "{name: mamba3d, checkpoint: a.pth, dropout: 0.1}",
            "backbone.dropout is for point_mamba, not for mamba3d",
        ),
        (
            "{name: point_mamba, checkpoint: a.pth, heads: 6}",
            "backbone.heads is for networks with attention, which point_mamba",
        ),
        (
            "{name: mamba3d, checkpoint: a.pth, heads: 6}",
            "backbone.heads is for networks with attention, which mamba3d",
        ),
    ],
)
def test_settings_of_another_network_are_refused(write: Write, section: str, message: str) -> None:
    write({"r.yaml": HEAD.replace("{checkpoint: a.pth}", section)})
    with pytest.raises(RecipeError) as raised:
        load_recipe("r.yaml")
    assert message in raised.value.message
    write({"r.yaml": HEAD.replace("{checkpoint: a.pth}", "{name: mamba3d, checkpoint: a.pth, variant: released}")})
    assert load_recipe("r.yaml").backbone.variant == "released"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            "training:\n  lr: 1\n  select: best_validation\n",
            "r.yaml:7: training.select is best_validation, but the data",
        ),
        ("evaluation:\n  split: validation\n", "r.yaml:6: evaluation.split is validation, but the data"),
    ],
)
@pytest.mark.parametrize(
    "data",
    [
        "shapes, validation_per_class: 0",
        "packed, path: x",
        "scanobjectnn, root: x, variant: hardest",
        "modelnet40, root: x",
        "modelnet10, root: x",
        "modelnet_fewshot, root: x, way: 5, shot: 10",
    ],
)
def test_validation_needs_a_validation_split(problems: Problems, data: str, extra: str, expected: str) -> None:
    [found] = problems(HEAD.replace("shapes", data) + extra)
    assert found.startswith(expected)
    assert found.endswith("section has no validation split")


@pytest.mark.parametrize(
    "split", ["{by: fraction, validation: 0.1}", "{by: list, train: a, validation: b, test: c}", "{by: folder}"]
)
def test_validation_with_a_validation_split(write: Write, split: str) -> None:
    text = HEAD.replace("shapes", f"folder, root: x, split: {split}") + "training: {select: best_validation}\n"
    write({"r.yaml": text})
    if "folder}" in split:
        with pytest.raises(RecipeError, match="no validation split"):
            load_recipe("r.yaml")
    else:
        assert load_recipe("r.yaml").training.select == "best_validation"


@pytest.mark.parametrize("data", ["scanobjectnn, root: x, variant: hardest", "modelnet40, root: x"])
def test_published_sets_with_a_validation_split(write: Write, data: str) -> None:
    text = HEAD.replace("shapes", f"{data}, validation: 0.1") + "training: {select: best_validation}\n"
    write({"r.yaml": text})
    assert load_recipe("r.yaml").training.select == "best_validation"
