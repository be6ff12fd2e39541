"""Whole runs on scenes: what trains, what is kept, what is measured, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from geopeft_cli.adapters.directory import adapter_state, read_adapter
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.assemble import load_splits, loss_weights, make_pipeline
from geopeft_cli.backbones import scene_backbone_class
from geopeft_cli.backbones.checkpoint import SETTINGS_KEY
from geopeft_cli.contracts import Scenes, official_state
from geopeft_cli.data.scene_batches import packed
from geopeft_cli.data.scenes import MemoryScenes, SceneSplits
from geopeft_cli.errors import ExportError, UsageError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.reports.progress import RunListener
from geopeft_cli.reports.records import read_records
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.verbs.data_survey import survey_data
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.export import export_trained
from geopeft_cli.verbs.finetune import Run, finetune
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.local_distance import measure_local_distance
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import check_clouds, open_trained
from geopeft_cli.verbs.preparing import prepare, weigh_labels

SIZES: dict[str, Any] = {"widths": [8, 12], "depths": [1, 1], "heads": [2, 2], "patch_size": [16, 16], "stride": [2]}
DECODER: dict[str, Any] = {"decoder_widths": [8], "decoder_depths": [1], "decoder_heads": [2]}


def checkpoint(path: Path, name: str, channels: int, **sizes: Any) -> Path:
    torch.manual_seed(0)
    model = scene_backbone_class(name)(channels, **SIZES, **sizes)
    write_tensors(path, official_state(model), {"format": "pt", SETTINGS_KEY: json.dumps(model.settings())})
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    values = {
        "name": "tiny",
        "data": {
            "format": "rooms",
            "train": 3,
            "validation": 1,
            "test": 2,
            "points": 500,
            "grid": 0.4,
            "elastic": False,
            "crop": {"voxels": 200},
            "mix3d": {"probability": 0.5},
        },
        "backbone": {"name": "sonata", "checkpoint": str(checkpoint(folder / "sonata.safetensors", "sonata", 9))},
        "method": {"name": "lora", "rank": 2},
        "training": {"epochs": 2, "batch_size": 2, "threads": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finetune(recipe, output=tmp_path_factory.mktemp("runs") / "lora")


@pytest.fixture
def ptv3(tmp_path: Path) -> list[str]:
    path = checkpoint(tmp_path / "ptv3.safetensors", "ptv3", 6, **DECODER)
    return [f"backbone={{name: ptv3, checkpoint: {path}}}", "data.features=[colors, normals]"]


def test_a_run_is_measured_as_it_was(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    result = evaluate_trained(run.folder)
    assert result.metrics == run.metrics["test"]
    assert {"miou", "miou_present", "mean_class_accuracy", "accuracy"} == set(result.metrics)
    assert result.counted == "points"
    assert int(np.sum(result.confusion)) == 2 * 500
    assert (run.folder / "report.html").stat().st_size > 10_000
    records = read_records(run.folder / "metrics.jsonl")
    assert [record["validation"]["miou"] for record in records[:2]]
    assert not caplog.records


def test_runs_repeat_and_go_on(recipe: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    def interrupted(_: RunListener, loss: float, *__: float) -> None:
        steps.append(loss)
        if len(steps) == 2:  # in the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunListener, "step_done", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(recipe, output=tmp_path / "again")
    again = finetune(recipe, output=tmp_path / "again", resume=True)
    first, second = (read_adapter(each.folder / "adapter").tensors for each in (run, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_votes_of_fragments(run: Run) -> None:
    votes = evaluate_trained(run.folder, ["evaluation.voting=fragments", "evaluation.scene_views=rot4"]).votes
    assert votes is not None
    assert votes.views == 4
    opened = open_trained(run.folder)
    splits = load_splits(opened.recipe)
    assert isinstance(splits, SceneSplits)
    pipeline = make_pipeline(opened.recipe)
    right = count = 0
    for index in range(2):
        scene = splits.test[index]
        scores = np.zeros((len(scene), 14))
        for piece in pipeline.fragments(scene, "rot4"):
            with torch.no_grad():
                probabilities = opened.model(packed([piece]).scenes).softmax(dim=1).numpy()  # type: ignore[arg-type]
            rows = np.arange(len(scene)) if piece.rows is None else piece.rows
            scores[rows] += probabilities
        right += int((scores.argmax(axis=1) == scene.labels).sum())
        count += len(scene)
    assert votes.figures["fragments"]["accuracy"] == pytest.approx(100 * right / count)


def test_an_update_folds_into_the_weights(run: Run, tmp_path: Path) -> None:
    merged = merge_trained(run.folder, tmp_path / "merged.safetensors")
    assert merged.merged.exact
    assert "scenes" in merged.clouds
    assert evaluate_trained(merged.file).metrics["accuracy"] == pytest.approx(run.metrics["test"]["accuracy"], abs=0.2)


def test_a_new_decoder_trains_with_any_method(recipe: Path, tmp_path: Path) -> None:
    changes = ["method={name: linear_probe}", "backbone.decoder=fresh", "training.epochs=1"]
    _, experiment = prepare(load_recipe(recipe, changes))
    trained = {name.partition(".")[0] for name, p in experiment.model.named_parameters() if p.requires_grad}
    assert trained == {"dec", "seg_head"}
    assert not any(site.name.startswith("dec.") for site in experiment.model.sites())
    found = finetune(recipe, changes, tmp_path / "run")
    assert evaluate_trained(found.folder).metrics == found.metrics["test"]


def test_a_new_decoder_may_have_statistics(recipe: Path, ptv3: list[str]) -> None:
    _, experiment = prepare(load_recipe(recipe, [*ptv3, "backbone.decoder=fresh"]))
    assert all(p.requires_grad for name, p in experiment.model.named_parameters() if name.startswith("dec."))
    assert "dec.dec0.up.proj.1.running_mean" in adapter_state(experiment.model, experiment.fresh)


def test_a_first_layer_for_other_features(recipe: Path, tmp_path: Path) -> None:
    other = ["data.features=[coordinates, normals]", "method={name: linear_probe}", "training.epochs=1"]
    with pytest.raises(UsageError, match=r"data.features: 6 channels, and .* was trained on 9"):
        prepare(load_recipe(recipe, other))
    found = finetune(recipe, [*other, "backbone.stem=fresh"], tmp_path / "run")
    assert any(name.startswith("embedding.stem.linear.") for name in read_adapter(found.folder / "adapter").tensors)
    assert evaluate_trained(found.folder).metrics == found.metrics["test"]


@pytest.mark.parametrize("method", ["{name: full}", "{name: gem, rank: 2, latents: 2}", "{name: bitfit}"])
def test_methods_on_a_decoder_network(recipe: Path, ptv3: list[str], method: str, tmp_path: Path) -> None:
    found = finetune(recipe, [*ptv3, f"method={method}", "training.epochs=1"], tmp_path / "run")
    assert evaluate_trained(found.folder).metrics == found.metrics["test"]


def test_weights_of_unequal_classes(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unequal = ["task={class_weights: inverse_square_root}"]
    splits, plain = prepare(load_recipe(recipe))
    _, weighed = prepare(load_recipe(recipe, unequal))
    for experiment in (plain, weighed):
        weigh_labels(experiment, splits.train)
    assert getattr(plain.task, "weights", None) is None
    weights = getattr(weighed.task, "weights", None)
    assert weights is not None
    assert weights[weights > 0].mean() == pytest.approx(1)

    def refuse(*_: object) -> None:
        raise UsageError("reads all")

    monkeypatch.setattr("geopeft_cli.verbs.preparing.loss_weights", refuse)
    prepare(load_recipe(recipe, unequal))
    with pytest.raises(UsageError, match="reads all"):
        finetune(recipe, unequal, tmp_path / "run")


def test_the_published_weights_of_semantic_kitti_read_no_frame(recipe: Path, tmp_path: Path) -> None:
    data = f"data={{format: semantic_kitti, root: {tmp_path}}}"
    nothing = MemoryScenes((), ())
    weights = loss_weights(load_recipe(recipe, [data, "task={class_weights: published}"]), nothing)
    assert weights is not None
    assert weights[:2].tolist() == pytest.approx([3.1557, 8.7029])
    assert len(weights) == 19


def test_less_to_learn_from(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("train_0002\ntrain_0000\n")
    changes = [f"data.limited_scenes={tmp_path / 'some.txt'}", "data.scale=2"]
    splits, whole = load_splits(load_recipe(recipe, changes)), load_splits(load_recipe(recipe))
    assert isinstance(splits, SceneSplits)
    assert isinstance(whole, SceneSplits)
    assert splits.train.names == ("train_0002", "train_0000")
    np.testing.assert_array_equal(splits.train[0].coordinates, 2 * whole.train[2].coordinates)


def test_what_is_for_objects_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="onnx is for networks of objects; sonata reads scenes"):
        export_trained(run.folder, "onnx", tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="--local-distance is for objects"):
        measure_local_distance(str(run.folder))


def test_the_quickstart_on_scenes_starts_where_its_checkpoint_is(tmp_path: Path) -> None:
    """The shipped recipe on fewer and smaller rooms: adapting the shipped weights tells floor from wall at once."""
    few = ["data.train=2", "data.validation=0", "data.test=1", "data.points=4000", "data.grid=0.2"]
    found = finetune("quickstart_scene", [*few, "training.epochs=3", "training.batch_size=1"], tmp_path / "run")
    assert found.metrics["test"]["accuracy"] > 50


def test_simulated_scenes_have_what_a_model_of_lidar_frames_reads(recipe: Path, run: Run, tmp_path: Path) -> None:
    gone = [f"data={{format: semantic_kitti, root: {tmp_path}}}", "data.grid=0.4"]
    opened = open_trained(run.folder)
    elsewhere = load_recipe(recipe, gone)
    [batch], words = check_clouds(replace(opened, recipe=elsewhere), count=1)
    assert isinstance(batch, Scenes)
    assert batch.features.shape[1] == 4
    assert "simulated" in words


def test_scenes_train_in_one_process(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "__enter__", lambda ranks: ranks)
    monkeypatch.setattr(Ranks, "__exit__", lambda *_: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="scenes train in one process"):
        finetune(recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_said_of_recipe_and_data(recipe: Path) -> None:
    facts = inspect_path(str(recipe)).facts
    assert facts["scenes"] == "train 3, validation 1, test 2"
    survey = survey_data(str(recipe))
    assert sum(survey.parts["test"].point_labels.values()) == 2 * 500
    assert survey.part_names[:2] == ["floor", "ceiling"]
