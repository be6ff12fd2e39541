"""Tables of parameters and figures, and the model card."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from geopeft_cli.evaluation.voting import Votes
from geopeft_cli.reports.console import (
    duration,
    print_confusions,
    print_metrics,
    print_parameters,
    print_votes,
    split_title,
)
from geopeft_cli.reports.model_card import model_card
from geopeft_cli.reports.parameters import parameter_table, site_of, structure_warnings
from geopeft_cli.reports.protocol import measured_in_words

SHAPES: dict[str, tuple[int, ...]] = {
    "blocks.blocks.0.attn.qkv.weight": (72, 24),
    "blocks.blocks.0.attn.qkv.lora_A.weight": (2, 24),
    "blocks.blocks.0.attn.qkv.lora_B.weight": (72, 2),
    "cls_head_finetune.0.weight": (5, 48),
    "cls_head_finetune.0.bias": (5,),
    "cls_head_finetune.1.running_mean": (5,),
    "cls_head_finetune.1.num_batches_tracked": (),
    "cls_token": (1, 1, 24),
    "norm.weight": (24,),
}
TRAINS = {name for name in SHAPES if "lora" in name or "finetune" in name}
RECIPE: dict[str, Any] = {
    "name": "mine",
    "description": "",
    "seed": 5,
    "backbone": {"name": "point_mae", "checkpoint": 'a "b".pth'},
    "method": {"name": "lora", "rank": 2, "targets": ["mlp_in", "mlp_out"]},
    "data": {"points": 128, "normalize": "unit_sphere", "sampling": "fps", "augment": ["jitter"]},
    "training": {"epochs": 3, "batch_size": 16, "lr": 0.001, "select": "last"},
}


def shown(print_it: Any, *arguments: Any) -> str:
    stream = io.StringIO()
    print_it(*arguments, Console(file=stream, markup=False, highlight=False, width=100))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("blocks.blocks.0.attn.qkv.lora_A.weight", "blocks.blocks.0.attn.qkv"),
        ("blocks.blocks.0.attn.qkv.most.blkdiag1", "blocks.blocks.0.attn.qkv"),
        ("blocks.blocks.0.attn.point_monarch.monarch_linear.bias", "blocks.blocks.0.attn"),
        ("blocks.blocks.0.attn.qkv.weight", "blocks.blocks.0.attn.qkv"),
        ("cls_head_finetune.8.bias", "cls_head_finetune"),
        ("cls_token", "cls_token"),
    ],
)
def test_sites(name: str, site: str) -> None:
    assert site_of(name) == site


def test_parameters_by_site() -> None:
    table = parameter_table(SHAPES, TRAINS)
    assert (table.trainable_parameters, table.total_parameters) == (192 + 245, 192 + 245 + 72 * 24 + 48)
    assert [(row.site, row.trainable, row.frozen) for row in table.rows] == [
        ("blocks.blocks.0.attn.qkv", 192, 1728),
        ("cls_head_finetune", 245, 0),
        ("everything else", 0, 48),
    ]
    assert table.share == pytest.approx(100 * 437 / 2213)
    assert sum(row.trainable + row.frozen for row in table.rows) == table.total_parameters


def test_parameters_of_an_adapter_know_the_model_only_by_its_total() -> None:
    adapter = {name: SHAPES[name] for name in TRAINS}
    table = parameter_table(adapter, total=2213)
    assert (table.trainable_parameters, table.total_parameters) == (437, 2213)
    assert (table.rows[-1].site, table.rows[-1].frozen) == ("everything else", 2213 - 437)


def test_json_of_a_table() -> None:
    found = parameter_table(SHAPES, TRAINS).to_json()
    assert {"trainable_parameters", "total_parameters", "sites", "adapter_bytes", "warnings"} <= set(found)
    assert found["sites"][0] == {"site": "blocks.blocks.0.attn.qkv", "trainable": 192, "frozen": 1728}


def test_structural_zeros_and_merges_that_are_not_exact_are_said() -> None:
    shapes = {"a.most.blkdiag1": (8, 2, 4), "b.most.blkdiag1": (8, 2, 4), "c.most.blkdiag1": (4, 4, 4)}
    text = "8 Monarch blocks of inner width 2 leave 75 % of the update at zero by structure"
    assert structure_warnings(shapes, {"name": "monarch"}) == [text]
    assert structure_warnings(shapes, {"lam": 0.5, "sides": 2})[1].startswith("lam is not 0: no exact fold")
    for settings in ({"lam": 0.0, "sides": 2}, {"lam": 0.5, "sides": 0}):
        assert structure_warnings(shapes, settings) == [text]
    assert structure_warnings({"a.lora_A.weight": (2, 8)}, {"name": "lora"}) == []
    low_rank, most = {"a.most.blkdiag1.u": (8, 2, 1)}, {"lam": 0.5, "sides": 2}
    assert len(structure_warnings(low_rank, most)) == 1
    assert structure_warnings(low_rank, most | {"lam_schedule": {"to": 0.0}}) == []
    assert len(structure_warnings(low_rank, most | {"lam_schedule": {"to": 0.1}})) == 1
    released = structure_warnings(
        {"a.point_monarch.monarch_linear.blkdiag1": (8, 2, 4)}, {"variant": "released", "lam": 0.5, "sides": 2}
    )
    assert released[0] == text
    assert [warning for warning in released[1:] if "not linear" in warning] == released[1:] != []


def test_like_sites_share_a_row() -> None:
    shapes = {f"blocks.{index}.qkv.lora_A.weight": (2, 5) for index in range(12)} | {
        "blocks.12.qkv.lora_A.weight": (3, 5)
    }
    table = parameter_table(shapes)
    table.warnings = ["something [odd]"]
    lines = shown(print_parameters, table).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["blocks.*.qkv", "(x", "12)", "120", "0"],
        ["blocks.12.qkv", "15", "0"],
    ]
    assert lines[3:] == ["135 of 135 parameters train (100.00 %)", "warning: something [odd]"]


def test_the_size_on_disk_is_shown_where_there_is_one() -> None:
    table = parameter_table(SHAPES, TRAINS)
    table.adapter_bytes = 1_230_000
    assert "(19.75 %), 1.23 MB on disk" in shown(print_parameters, table)


def test_figures() -> None:
    assert shown(print_metrics, {"accuracy": 91.666, "mean_class_accuracy": 90.1}, "test") == (
        "test: accuracy 91.67 %, mean class accuracy 90.10 %\n"
    )


def test_confusions() -> None:
    text = shown(print_confusions, ["a", "b", "c"], [[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert [line.split() for line in text.splitlines()] == [
        ["class", "clouds", "recall", "taken", "for"],
        ["a", "4", "75.0", "%", "b", "1"],
        ["b", "2", "100.0", "%"],
        ["c", "0", "-"],
    ]


@pytest.mark.parametrize(("seconds", "text"), [(5.04, "5.0 s"), (59.94, "1 min 00 s"), (125.4, "2 min 05 s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("split", "select", "expected"),
    [
        ("test", "last", "test"),
        ("test", "best_validation", "test"),
        ("test", "best_test", "test (the weights were chosen on it)"),
        ("validation", "best_validation", "validation (the weights were chosen on it)"),
    ],
)
def test_a_split_that_chose_the_weights_is_marked(split: str, select: str, expected: str) -> None:
    assert split_title(split, select) == expected


def card(select: str = "last", **changes: Any) -> str:
    recipe = {**RECIPE, **changes, "training": {**RECIPE["training"], "select": select}}
    return model_card(
        recipe=recipe,
        classes=["chair", "stool"],
        base_sha256="ab" * 32,
        trainable_parameters=437,
        total_parameters=2213,
        metrics={"test": {"accuracy": 91.666}},
        selection="last of 3 epochs",
    )


def test_the_card_says_what_it_is_and_what_was_measured() -> None:
    text = card()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "peft",
        "base_model": 'a "b".pth',
        "tags": ["point-cloud", "3d", "geopeft", "lora"],
    }
    for words in (
        "# mine\n",
        "lora on point_mae, trained with geopeft",
        "| method | lora: rank 2, targets mlp_in+mlp_out |",
        "ab" * 32,
        "437 of 2,213 (19.75 %), head included",
        "| classes | chair, stool |",
        "128 points, sampling fps, normalize unit_sphere",
        "3 epochs, batch 16, lr 0.001, augmentation jitter, seed 5",
        "| weights kept | last of 3 epochs |",
        "| test | accuracy | 91.67 % |",
    ):
        assert words in body


def test_the_card_marks_figures_that_chose_the_weights() -> None:
    assert "| test (the weights were chosen on it) | accuracy | 91.67 % |" in card("best_test")


def test_the_card_takes_the_description_of_the_recipe() -> None:
    assert "\nChairs of the office.\n" in card(description="Chairs of the office.")
    assert "library_name: geopeft" in card(method={"name": "bitfit", "scope": "all"})


def test_the_card_of_a_run(most_run: Path) -> None:
    text = (most_run / "adapter/README.md").read_text()
    assert "| weights kept | last of 2 epochs |" in text
    assert "| test | mean class accuracy | " in text


def test_votes_on_scenes_in_words() -> None:
    votes = Votes("fragments", 4, 1, ("rot4",), {"fragments": {"miou": 50.0}})
    assert shown(print_votes, votes, "test").splitlines() == [
        "voting: fragments, rot4 (4 views), sum of the probabilities",
        "  fragments: miou 50.00 %",
    ]
    scenes, voting = {"grid": 0.02, "test_grid": None}, {"voting": "fragments", "scene_views": "tta13"}
    assert measured_in_words(scenes, {"voting": "none"}) == "one view of every scene, no voting"
    assert measured_in_words(scenes, voting) == (
        "one view of every scene; geopeft eval adds voting: fragments, tta13, sum of the probabilities"
    )
