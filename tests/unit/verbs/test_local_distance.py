"""The local feature distance of models: what is measured, on which clouds, and what may be compared."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.peft_layout import TENSORS
from geopeft_cli.assemble import Experiment, build, load_splits, make_batches
from geopeft_cli.assets.pretrain_point_mae_tiny import save
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.point_mamba import PointMamba
from geopeft_cli.contracts import Wrapper, official_state
from geopeft_cli.data.clouds import Subset
from geopeft_cli.errors import DataError, GeopeftError, MissingDependencyError, UsageError
from geopeft_cli.geometry.local_distance import local_distance, neighborhoods
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.reports.console import console
from geopeft_cli.reports.local_distance import LocalDistanceReport, print_local_distance
from geopeft_cli.reports.local_distance_plot import check_plot, write_plot
from geopeft_cli.reports.records import read_records
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.local_distance import measure_local_distance
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.preparing import prepare


def rewritten(adapter: Path, target: Path, values: dict[str, torch.Tensor]) -> Path:
    """A copy of an adapter with other values in some of its tensors."""
    shutil.copytree(adapter, target)
    path = target / TENSORS
    tensors = load_file(path)
    for name in tensors:
        tensors[name] = values[name.removeprefix("base_model.model.")].clone()
    save_file(tensors, path, read_header(path).metadata)
    return target


def with_record(adapter: Path, target: Path, **changes: object) -> Path:
    """A copy of an adapter with changes to its record."""
    shutil.copytree(adapter, target)
    path = target / TENSORS
    metadata = read_header(path).metadata
    record = json.loads(metadata["geopeft"]) | changes
    save_file(load_file(path), path, metadata | {"geopeft": json.dumps(record)})
    return target


@pytest.fixture(scope="module")
def report(most_adapter: Path, lora_adapter: Path) -> LocalDistanceReport:
    return measure_local_distance(str(most_adapter), compare=[lora_adapter], clouds=10)


def test_figures_are_those_of_the_definition(most_adapter: Path, report: LocalDistanceReport) -> None:
    opened = open_trained(most_adapter)
    validation = load_splits(opened.recipe).validation
    assert validation is not None
    part = Subset(validation, range(10))
    batches = make_batches(opened.recipe, part, "validation", training=False, batch_size=3)
    lfd, lfd_rel = [], []
    with torch.no_grad():
        for batch in batches.epoch(0):
            tokens = opened.model.encode(batch.points, [1])
            found = local_distance(tokens.layers[1][:, 1:], neighborhoods(tokens.centers, 4))
            lfd.append(found.lfd)
            lfd_rel.append(found.lfd_rel)
    last = report.models[1].blocks[-1]
    assert last.mean.lfd == pytest.approx(float(torch.cat(lfd).mean()), rel=1e-6)
    assert last.mean.lfd_rel == pytest.approx(float(torch.cat(lfd_rel).mean()), rel=1e-6)
    assert last.std.lfd_rel == pytest.approx(float(torch.cat(lfd_rel).std(correction=0)), rel=1e-5)


def test_of_a_center_in_several_places_the_mean_counts(tiny_recipe: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PointMamba(width=24, depth=1, groups=8, group_size=8).eval()
    torch.save({f"MAE_encoder.{name}": tensor for name, tensor in official_state(model).items()}, tmp_path / "a.pth")
    changes = {"name": "point_mamba", "checkpoint": tmp_path / "a.pth", "groups": 8, "group_size": 8, "heads": "null"}
    arguments = [f"backbone.{key}={value}" for key, value in changes.items()]
    found = measure_local_distance(str(tiny_recipe), arguments, clouds=2)
    recipe = load_recipe(str(tiny_recipe), arguments)
    validation = load_splits(recipe).validation
    assert validation is not None
    (batch,) = make_batches(recipe, Subset(validation, range(2)), "validation", training=False, batch_size=2).epoch(0)
    with torch.no_grad():
        tokens = model.encode(batch.points, [0])
    assert tokens.slots.shape == (2, 16)
    of_places = zip(tokens.slots, tokens.layers[0], strict=True)
    features = torch.stack([torch.stack([x[slots == one].mean(0) for one in range(8)]) for slots, x in of_places])
    expected = local_distance(features, neighborhoods(tokens.centers, 4))
    assert found.models[0].blocks[0].mean.lfd == pytest.approx(float(expected.lfd.mean()), rel=1e-6)


def test_an_untouched_adapter_is_its_base(most_run: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    _, experiment = prepare(load_recipe(tiny_recipe))
    fresh = rewritten(most_run / "adapter", tmp_path / "fresh", official_state(experiment.model))
    base, adapted = measure_local_distance(str(fresh)).models
    assert adapted.blocks == base.blocks
    assert adapted.follows_base


def test_the_base_is_the_same_whoever_asks(tiny_recipe: Path, report: LocalDistanceReport) -> None:
    (base,) = measure_local_distance(str(tiny_recipe), clouds=10).models
    assert base.kind == "base"
    assert base.blocks == report.models[0].blocks
    assert report.models[1].blocks != base.blocks


def test_an_adapter_beside_a_recipe(tiny_recipe: Path, most_adapter: Path, report: LocalDistanceReport) -> None:
    found = measure_local_distance(str(tiny_recipe), adapter=most_adapter, clouds=10)
    assert [model.blocks for model in found.models] == [model.blocks for model in report.models[:2]]


def test_the_json_of_a_comparison(report: LocalDistanceReport, most_adapter: Path, lora_adapter: Path) -> None:
    found = json.loads(json.dumps(report.to_json()))
    head = {key: found[key] for key in ("kind", "split", "k", "n_clouds", "skipped", "correlation", "notes")}
    assert head == {
        "kind": "local_distance", "split": "validation", "k": 4, "n_clouds": 10, "skipped": 0, "correlation": None,
        "notes": [],
    }  # fmt: skip
    base, most, lora = found["models"]
    assert [base["name"], most["name"], lora["name"]] == ["base", str(most_adapter), str(lora_adapter)]
    assert [base["kind"], most["kind"], most["method"], lora["method"]] == ["base", "adapted", "most", "lora"]
    assert (base["tokens"], base["accuracy"], base["last"]["difference"]) == (16, None, None)
    for model in found["models"]:
        assert [row["block"] for row in model["blocks"]] == [0, 1]
        assert model["last"] == model["blocks"][-1]
        assert all(set(row["std"]) == {"lfd", "lfd_rel"} for row in model["blocks"])
    for key in ("lfd", "lfd_rel"):
        assert lora["last"]["difference"][key] == pytest.approx(lora["last"][key] - base["last"][key])


def test_the_accuracy_is_the_recorded_one(most_run: Path) -> None:
    accuracy = read_records(most_run / "metrics.jsonl")[-1]["test"]["accuracy"]
    assert measure_local_distance(str(most_run)).models[1].accuracy == accuracy


def test_the_correlation_of_three_runs(most_run: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    runs = []
    for index, strength in enumerate((0.0, 0.3, 0.9)):
        state = {
            name: tensor + strength * torch.randn(tensor.shape, generator=generator) * name.endswith("blkdiag2")
            for name, tensor in official_state(open_trained(most_run).model).items()
        }
        adapter = rewritten(most_run / "adapter", tmp_path / f"a{index}", state)
        runs.append(with_record(adapter, tmp_path / f"b{index}", metrics={"test": {"accuracy": 50.0 + index**2}}))
    found = measure_local_distance(str(runs[0]), compare=runs[1:])
    x = [model.blocks[-1].mean.lfd_rel for model in found.models[1:]]
    expected = float(torch.corrcoef(torch.tensor([x, [50.0, 51.0, 54.0]], dtype=torch.float64))[0, 1])
    correlation = found.to_json()["correlation"]
    assert (correlation["runs"], correlation["pearson"]) == (3, pytest.approx(expected))
    assert abs(expected) < 1


def test_a_constant_accuracy_has_no_correlation(most_run: Path, tmp_path: Path) -> None:
    metrics = {"test": {"accuracy": 50.0}}
    runs = [with_record(most_run / "adapter", tmp_path / f"r{index}", metrics=metrics) for index in range(3)]
    found = measure_local_distance(str(runs[0]), compare=runs[1:], clouds=3)
    assert found.to_json()["correlation"] == {"pearson": None, "runs": 3}
    out = console()
    with out.capture() as printed:
        print_local_distance(found, out)
    assert "over 3 runs: undefined" in printed.get()


def test_a_merged_file_is_measured_with_and_without_its_base(most_adapter: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    merge_trained(most_adapter, merged)
    found = measure_local_distance(str(merged), compare=[most_adapter])
    assert [model.kind for model in found.models] == ["base", "merged", "adapted"]
    own, adapted = (model.blocks[-1].mean for model in found.models[1:])
    assert own.lfd == pytest.approx(adapted.lfd, rel=1e-4)
    alone = measure_local_distance(str(merged), ["backbone.checkpoint=/nowhere.pth"])
    assert [model.kind for model in alone.models] == ["merged"]
    assert alone.difference(alone.models[0], 1) is None
    assert "the base was not measured: backbone.checkpoint: no file /nowhere.pth" in alone.notes


def test_runs_of_the_same_base_are_found_where_the_target_finds_it(
    most_adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    record = json.loads(read_header(most_adapter / TENSORS).metadata["geopeft"])
    record["recipe"]["backbone"]["checkpoint"] = "/moved/away.pth"
    moved = [with_record(most_adapter, tmp_path / name, recipe=record["recipe"]) for name in ("a", "b")]
    found = measure_local_distance(str(moved[0]), [f"backbone.checkpoint={tiny_base}"], compare=moved[1:], clouds=2)
    assert found.models[1].blocks == found.models[2].blocks


def test_an_adapter_of_another_tool_takes_backbone_and_data_of_the_target(
    most_adapter: Path, lora_adapter: Path, report: LocalDistanceReport, tmp_path: Path
) -> None:
    foreign = Path(shutil.copytree(lora_adapter, tmp_path / "foreign"))
    save_file(load_file(foreign / TENSORS), foreign / TENSORS, {"format": "pt"})
    found = measure_local_distance(str(most_adapter), compare=[foreign], clouds=10).models[2]
    assert found.blocks == report.models[2].blocks
    assert (found.method, found.accuracy) == ("lora", None)


def test_a_run_of_other_tokens_and_depth_has_no_difference(tiny_recipe: Path, most_run: Path, tmp_path: Path) -> None:
    save(PointMAE(24, 3, 4, groups=12, group_size=8), tmp_path / "deep.safetensors")
    overrides = [f"backbone.checkpoint={tmp_path / 'deep.safetensors'}", "backbone.groups=12", "training.epochs=1"]
    deep = finetune(tiny_recipe, [*overrides, "training.select=best_test"], tmp_path / "deep").folder
    found = measure_local_distance(str(most_run), compare=[deep], clouds=4, neighbors=15)
    other = found.models[2]
    assert (other.tokens, len(other.blocks), found.difference(other, 0)) == (12, 3, None)
    assert [note.removeprefix(f"{deep}: ") for note in found.notes] == [
        "its 12 tokens have 11 neighbors each, not 15",
        "12 tokens instead of 16, so that its neighborhoods are others than those of base",
        "made for another base, so that no difference is shown",
        "its weights were chosen on the test split; its accuracy is not an unbiased figure",
    ]
    out = console()
    with out.capture() as printed:
        print_local_distance(found, out)
    row = next(line for line in printed.get().splitlines() if line.startswith("2 "))
    assert row.split() == ["2", "base", *"-----"]
    with pytest.raises(UsageError, match="made for another base"):
        measure_local_distance(str(tiny_recipe), adapter=deep)


def test_either_other_tokens_or_another_base_leave_no_difference(
    tiny_recipe: Path, tiny_base: Path, most_run: Path, tmp_path: Path
) -> None:
    base = tmp_path / "other.safetensors"
    tensors = {name: tensor * 1.5 for name, tensor in load_file(tiny_base).items() if tensor.is_floating_point()}
    save_file(load_file(tiny_base) | tensors, base, read_header(tiny_base).metadata)
    changes = {
        "tokens": "backbone.groups=15",
        "base": f"backbone.checkpoint={base}",
    }
    runs = {
        name: finetune(tiny_recipe, ["training.epochs=1", change], tmp_path / name).folder
        for name, change in changes.items()
    }
    found = measure_local_distance(str(most_run), compare=list(runs.values()))
    assert [found.difference(model, 0) is None for model in found.models] == [True, False, True, True]
    assert found.notes == [
        f"{runs['tokens']}: 15 tokens instead of 16, so that its neighborhoods are others than those of base",
        f"{runs['base']}: made for another base, so that no difference is shown",
    ]


def test_the_base_has_nothing_of_the_method_in_it(most_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build_and_keep(*arguments: Any) -> Experiment:
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr("geopeft_cli.verbs.local_distance.build", build_and_keep)
    measure_local_distance(str(most_run), clouds=1)
    assert [any(isinstance(module, Wrapper) for module in made.model.modules()) for made in built] == [False]


def test_other_points_are_noted(most_run: Path) -> None:
    found = measure_local_distance(str(most_run), ["data.points=96"], clouds=2)
    assert found.notes == [
        f"{most_run}: trained on 128 points, normalize unit_sphere; measured on 96 points, normalize unit_sphere"
    ]


def test_the_test_split_where_there_is_no_other(tiny_recipe: Path) -> None:
    found = measure_local_distance(str(tiny_recipe), ["data.validation_per_class=0"])
    assert (found.split, found.n_clouds) == ("test", 28)
    assert found.notes == ["the clouds are of the test split: the data has no validation split"]


def test_neither_batches_nor_augmentation_matter(tiny_recipe: Path) -> None:
    whole = measure_local_distance(str(tiny_recipe))
    other = ["evaluation.batch_size=3", "data.augment=[rotate_y, jitter]"]
    for found, expected in zip(measure_local_distance(str(tiny_recipe), other).models, whole.models, strict=True):
        assert found.blocks[1].mean.lfd == pytest.approx(expected.blocks[1].mean.lfd, rel=1e-5)
    assert whole.n_clouds == 14


def test_a_model_of_one_token(tiny_recipe: Path) -> None:
    with pytest.raises(GeopeftError, match="no cloud in which every model has two tokens"):
        measure_local_distance(str(tiny_recipe), ["backbone.groups=1"])


def test_weights_that_are_not_finite(tiny_recipe: Path, tiny_base: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.float() for name, tensor in load_file(tiny_base).items()}
    next(tensor for name, tensor in tensors.items() if name.endswith("blocks.1.mlp.fc2.weight")).fill_(3e38)
    path = tmp_path / "large.safetensors"
    save_file(tensors, path, read_header(tiny_base).metadata)
    with pytest.raises(GeopeftError, match="base: features after block 1 are not finite"):
        measure_local_distance(str(tiny_recipe), [f"backbone.checkpoint={path}"], clouds=2)


def test_mistakes_in_what_is_given(tiny_recipe: Path, tiny_base: Path, most_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--adapter goes with a recipe"):
        measure_local_distance(str(most_run), adapter=most_run)
    with pytest.raises(UsageError, match="is given twice"):
        measure_local_distance(str(most_run), compare=[most_run / "adapter"])
    with pytest.raises(UsageError, match="no run or adapter at"):
        measure_local_distance(str(tiny_recipe), compare=[tmp_path / "nothing"])
    with pytest.raises(UsageError, match="is a checkpoint, not a run or an adapter"):
        measure_local_distance(str(tiny_base))
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match="is not a recipe, a run, an adapter or a merged file"):
        measure_local_distance(str(tmp_path / "x.pth"))
    with pytest.raises((UsageError, DataError)):
        measure_local_distance(str(tiny_recipe), ["data={format: folder, root: /nowhere, split: {by: folders}}"])


def test_a_plot_is_a_picture_of_every_model(report: LocalDistanceReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg", "c.png"):
        write_plot(report, tmp_path / name)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text.startswith("<?xml")
    assert all(f">{model.name}</text>" in text.replace("> ", ">") for model in report.models)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


def test_plots_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"a \.svg or a \.png file"):
        check_plot(tmp_path / "a.pdf")
    (tmp_path / "a.svg").touch()
    with pytest.raises(UsageError, match="exists"):
        check_plot(tmp_path / "a.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        check_plot(tmp_path / "b.svg")
    assert caught.value.hint == 'Run pip install "geopeft[plot]".'
