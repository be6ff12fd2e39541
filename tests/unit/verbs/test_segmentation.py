"""A label a point from a recipe to a merged file: training, measuring, inspecting, merging, exporting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geopeft_cli.contracts import memories
from geopeft_cli.errors import CheckpointError, DataError, UsageError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.problems import RecipeError
from geopeft_cli.tasks.segmentation import SceneSegmentation
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.export import export_trained
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.preparing import prepare, weigh_labels
from geopeft_cli.verbs.unmerge import unmerge

PARTS = ("lower", "upper", "left", "right")


def packed(path: Path, names: tuple[str, ...] = PARTS) -> Path:
    """Sixteen clouds of two classes; those of one are divided across y, those of the other across x."""
    points = np.random.default_rng(0).uniform(-1, 1, (16, 128, 3)).astype(np.float32)
    label = np.arange(16) % 2
    points[label == 1, :, 2] *= 0.2
    axis = np.where(label[:, None], points[..., 0], points[..., 1])
    np.savez(
        path,
        points=points,
        label=label,
        classes=np.array(["cube", "plate"]),
        point_labels=(axis > 0) + 2 * label[:, None],
        part_names=np.array(names),
    )
    return path


RECIPE = """
name: parts
data: {{format: packed, path: {path}, split: {{by: fraction, validation: 0.25, test: 0.25}}, points: 128}}
backbone: {{checkpoint: "embedded:point_mae_tiny", groups: 16, group_size: 8}}
method: {{name: lora, rank: 2}}
task: {{name: part_segmentation}}
training: {{epochs: 8, batch_size: 8, lr: 4e-3, schedule: cosine, warmup_epochs: 0, select: best_validation}}
evaluation: {{batch_size: 4}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(path=packed(folder / "parts.npz")), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    return finetune(recipe, output=recipe.parent / "run").folder


def test_a_run_learns_and_its_adapter_gives_the_same_figures(run: Path) -> None:
    result = evaluate_trained(run, ["evaluation.split=train"])
    assert set(result.metrics) == {"instance_miou", "class_miou", "accuracy"}
    assert result.metrics["accuracy"] > 70  # 50 by chance, since only the parts of the category are predicted
    assert (result.clouds, result.counted, result.classes) == (8, "points", list(PARTS))
    counts = np.array(result.confusion)
    assert counts.sum() == 8 * 128
    assert counts[:2, 2:].sum() == counts[2:, :2].sum() == 0
    assert "instance miou" in result.weights_kept


def test_the_report_shows_overlap_instead_of_confusion(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "Intersection over union by category" in text
    assert "What is taken for what" not in text
    assert text.count("<figcaption>truth</figcaption>") == text.count('<article class="cloud"') > 0


def test_what_inspect_says(run: Path, recipe: Path) -> None:
    found = inspect_path(str(run))
    assert found.facts["labels_of_points"] == list(PARTS)
    assert "head for points" in {row.site for row in found.table.rows}
    assert not inspect_path(str(recipe)).table.warnings


def test_a_merged_file_predicts_the_same_and_can_be_taken_apart(run: Path, tmp_path: Path) -> None:
    merged = merge_trained(run, tmp_path / "merged.safetensors", reversible=True)
    assert merged.merged.exact
    points, categories = torch.rand(2, 128, 3) - 0.5, torch.tensor([0, 1])
    with torch.no_grad():
        before = open_trained(run).model(points, categories)
        after = open_trained(merged.file).model(points, categories)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    back = unmerge(merged.file, tmp_path / "back").folder
    own, again = (load_file(folder / "adapter_model.safetensors") for folder in (run / "adapter", back))
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)


def test_the_official_file_is_one_of_part_segmentation(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "seg.pth"
    merge_trained(run, tmp_path / "merged.safetensors")
    export_trained(tmp_path / "merged.safetensors", "official", file)
    assert "model_state_dict" in torch.load(file, weights_only=True)
    facts = inspect_path(str(file)).facts
    assert (facts["stage"], facts["classes"]) == ("part_segmentation", 4)
    assert facts["loads"] == "yes, as point_mae for part segmentation; has a head for 4 classes"


def test_a_head_comes_from_a_fine_tuned_file(run: Path, recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "seg.pth"
    merge_trained(run, tmp_path / "merged.safetensors")
    export_trained(tmp_path / "merged.safetensors", "official", file)
    arguments = [f"backbone.checkpoint={file}", "backbone.heads=4", "training.epochs=1", "training.lr=1e-9"]
    again = finetune(recipe, [*arguments, "task.head_from=checkpoint"], tmp_path / "again")
    assert again.metrics["test"]["accuracy"] == pytest.approx(evaluate_trained(run).metrics["accuracy"], abs=5)
    with pytest.raises(CheckpointError, match="does not fit point_mae") as caught:
        finetune(recipe, [*arguments, "task={name: classification}"], tmp_path / "other")
    assert "task.name part_segmentation" in str(caught.value.hint)


def test_point_peft_remembers_whole_clouds_by_category(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOPEFT_CACHE", str(tmp_path / "cache"))
    method = "method={name: point_peft, prompts: 4, prompted_blocks: 1, bank_per_class: 2}"
    run = finetune(recipe, [method, "training.epochs=1"], tmp_path / "run")
    (memory,) = memories(open_trained(run.folder).model).values()
    assert memory.columns.shape[1] == 4
    assert evaluate_trained(run.folder).metrics == run.metrics["test"]


def test_rare_labels_of_scenes_weigh_more(recipe: Path) -> None:
    arguments = ["task={name: scene_segmentation, class_weights: cube_root}", "training.select=last"]
    splits, experiment = prepare(load_recipe(recipe, arguments))
    weigh_labels(experiment, splits.train)
    counts = np.zeros(4)
    for index in range(len(splits.train)):
        counts += np.bincount(splits.train[index].point_labels, minlength=4)
    assert isinstance(experiment.task, SceneSegmentation)
    assert experiment.task.weights is not None
    np.testing.assert_allclose(experiment.task.weights, (counts.max() / counts) ** (1 / 3), rtol=1e-6)
    _, equal = prepare(load_recipe(recipe, ["task={name: scene_segmentation}", "training.select=last"]))
    weigh_labels(equal, splits.train)
    assert isinstance(equal.task, SceneSegmentation)
    assert equal.task.weights is None


def test_peft_loads_it(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    assert export_trained(run, "peft", tmp_path / "peft").verification.verified


def test_data_with_other_parts_is_refused(run: Path, tmp_path: Path) -> None:
    other = packed(tmp_path / "other.npz", ("a", "b", "c", "d"))
    with pytest.raises(DataError, match=r"labels of points .* 'a' where the adapter has 'lower'"):
        evaluate_trained(run, [f"data.path={other}"])


def test_data_without_labels_of_points_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a label for every point"):
        finetune(recipe, ["data={format: shapes, points: 128}", "training.select=last"], tmp_path / "run")


@pytest.mark.parametrize("name", ["i2p_mae", "mamba3d"])
def test_networks_without_such_a_head_are_refused(recipe: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=f"task.name is part_segmentation, and {name} has no head for points"):
        finetune(recipe, [f"backbone={{name: {name}, checkpoint: x.pth}}"], tmp_path / "run")
