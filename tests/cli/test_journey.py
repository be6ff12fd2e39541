"""The way of a user: finetune, eval, merge, inspect, and going on after Ctrl-C."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer.testing

from geopeft_cli.cli.app import app
from geopeft_cli.reports.records import read_records


def geopeft(*arguments: object) -> typer.testing.Result:
    """Run a verb that must succeed and be silent on stderr."""
    runner = typer.testing.CliRunner(env={"TERM": "dumb", "COLUMNS": "120"})
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stderr == ""
    return result


def test_the_whole_way(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = geopeft("finetune", tiny_recipe, "method={name: lora, rank: 2}", "training.lr=1e-2", "--output", "run")
    test = next(line for line in told.stdout.splitlines() if line.startswith("test: "))
    assert "weights kept: last of 2 epochs" in told.stdout
    commands = [line.split()[1:] for line in told.stdout.splitlines() if line.startswith("  geopeft ")]
    assert [command[0] for command in commands] == ["eval", "merge", "export", "inspect"]

    measured = geopeft(*commands[0]).stdout
    assert re.search(r"^test, \d+ clouds: " + test.removeprefix("test: "), measured, re.MULTILINE)
    assert "weights kept: last of 2 epochs" in measured
    merged = geopeft(*commands[1]).stdout
    assert merged.startswith("merged.safetensors: 8 layers merged by exact, exact up to rounding\n")
    assert "%" not in merged
    assert json.loads(geopeft("eval", "merged.safetensors", "--json").stdout) == json.loads(
        geopeft("eval", "run", "--json").stdout
    )
    assert "parameters train (" in geopeft(*commands[3]).stdout


def test_the_default_place_of_a_run(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    geopeft("finetune", tiny_recipe, "training.epochs=1")
    assert (tmp_path / "runs/tiny/adapter/README.md").is_file()


def test_eval_prints_only_json_on_stdout(most_run: Path) -> None:
    found = json.loads(geopeft("eval", most_run, "evaluation.split=validation", "--json").stdout)
    last = read_records(most_run / "metrics.jsonl")[-1]
    assert set(found) == {
        "split", "clouds", "metrics", "classes", "confusion", "counted", "select", "weights_kept", "voting", "votes",
        "labels", "categories", "unit",
    }  # fmt: skip
    assert (found["split"], found["metrics"], found["select"]) == ("validation", last["validation"], "last")
    assert sum(sum(row) for row in found["confusion"]) == found["clouds"]
    hits = sum(row[index] for index, row in enumerate(found["confusion"]))
    assert 100 * hits / found["clouds"] == pytest.approx(found["metrics"]["accuracy"])


def test_eval_shows_what_is_taken_for_what(most_run: Path) -> None:
    lines = geopeft("eval", most_run).stdout.splitlines()
    assert lines[0].split() == ["class", "clouds", "recall", "taken", "for"]
    assert lines[-2].startswith("test, ")
    assert lines[-1] == "voting: none, one view of each cloud"


def test_selection_on_the_test_split_is_said_by_every_verb(tiny_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    marks = ("test (the weights were chosen on it)", "best on the TEST split", "not an unbiased figure")
    told = geopeft("finetune", tiny_recipe, "training.select=best_test", "--output", run).stdout
    measured = geopeft("eval", run).stdout
    for mark in marks:
        assert mark in told
        assert mark in measured
    assert marks[0] not in geopeft("eval", run, "evaluation.split=validation").stdout
    assert json.loads(geopeft("eval", run, "--json").stdout)["select"] == "best_test"
    assert marks[1] in geopeft("inspect", run).stdout


def test_approximate_merges_are_announced(most_run: Path, tmp_path: Path) -> None:
    kept = geopeft("merge", most_run, "--output", tmp_path / "kept.safetensors").stdout
    assert "4 layers merged by keep-k, exact up to rounding" in kept
    assert "--mode calibrated-matrix, --mode calibrated-scalar, --mode dc, --mode drop-k" in kept
    told = geopeft("merge", most_run, "--output", tmp_path / "a.safetensors", "--mode", "dc").stdout
    assert "4 layers merged by dc, APPROXIMATE" in told
    assert len(re.findall(r"^  blocks\.blocks\.\d\.\S+  relative error 0\.\d{3}$", told, re.MULTILINE)) == 4
    assert re.search(r"^test accuracy .* % unmerged, .* % merged \([+-]\d+\.\d\d\)$", told, re.MULTILINE)


def test_merging_to_lora(most_run: Path, tmp_path: Path) -> None:
    told = geopeft("merge", most_run, "--output", tmp_path / "lora", "--to-lora", 3, "--mode", "dc").stdout
    assert told.startswith(
        f"{tmp_path / 'lora'}: LoRA of rank 3 for 4 layers, nearest to the update by dc, APPROXIMATE\n"
    )
    layer = r"^  blocks\.blocks\.\d\.\S+  relative error of the truncation 0\.\d+, of dc 0\.\d{3}$"
    assert len(re.findall(layer, told, re.MULTILINE)) == 4
    assert re.search(r"^largest difference of a logit \d\.\de-\d\d ", told, re.MULTILINE)
    assert re.search(r"^test accuracy .* % before, .* % as LoRA \([+-]\d+\.\d\d\)$", told, re.MULTILINE)
    refused = typer.testing.CliRunner().invoke(
        app, ["merge", str(most_run), "--output", str(tmp_path / "x"), "--to-lora", "3"]
    )
    assert refused.exit_code == 2
    assert "Name an approximation with --mode: calibrated-matrix" in refused.stderr


def test_merging_there_and_back(most_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "merged.safetensors"
    geopeft("merge", most_run, "--output", file, "--reversible")
    assert re.search(r"^merged .*reversible True", geopeft("inspect", file).stdout, re.MULTILINE)
    told = geopeft("merge", file, "--output", tmp_path / "a", "--unmerge").stdout
    assert "the adapter that was merged and its base (base.safetensors), bit for bit" in told
    base = told.splitlines()[-1].rpartition(" ")[2]
    assert base == f"backbone.checkpoint={tmp_path / 'a/base.safetensors'}"
    found = json.loads(geopeft("eval", tmp_path / "a", base, "--json").stdout)
    assert found == json.loads(geopeft("eval", most_run, "--json").stdout)
    plain = tmp_path / "plain.safetensors"
    geopeft("merge", most_run, "--output", plain)
    again = ("merge", plain, "--unmerge", "--adapter", most_run, "--output")
    told = geopeft(*again, tmp_path / "b").stdout
    assert re.search(r"^Subtracting the update instead would round: by \d\.\de-\d\d at most\.$", told, re.MULTILINE)
    told = geopeft(*again, tmp_path / "c", "backbone.checkpoint=/no/such/base.pth").stdout
    assert "found by subtracting the update, which rounds" in told


def test_inspect_speaks_json(most_run: Path, tiny_recipe: Path, tiny_base: Path) -> None:
    for target, kind in ((most_run, "adapter"), (tiny_recipe, "recipe"), (tiny_base, "checkpoint")):
        found = json.loads(geopeft("inspect", target, "--json").stdout)
        assert found["kind"] == kind
        assert {"trainable_parameters", "total_parameters", "sites", "adapter_bytes"} <= set(found)


def test_inspect_measures_the_local_distance(most_run: Path, lora_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "distances.svg"
    command = ("inspect", most_run, "evaluation.batch_size=4", "--local-distance", "--compare", lora_run)
    found = json.loads(geopeft(*command, "--clouds", 5, "--neighbors", 3, "--plot", plot, "--json").stdout)
    assert (found["k"], found["n_clouds"], found["skipped"], len(found["models"])) == (3, 5, 0, 3)
    assert plot.read_text(encoding="utf-8").count("<svg") == 1
    told = geopeft(*command).stdout
    assert told.startswith(
        "local feature distance between a token and its 4 nearest, 14 clouds of the validation split\n"
    )
    assert "━" in told
    assert re.search(rf"{lora_run}\s+lora\s.*%", told)
    assert "correlation" not in told


def test_a_dry_run_makes_nothing(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = typer.testing.CliRunner(env={"TERM": "dumb"})
    group = "training.groups=[{match: '*cls*', lr_scale: 10, weight_decay: 0.1}]"
    result = runner.invoke(app, ["finetune", str(tiny_recipe), group, "--dry-run"])
    assert result.exit_code == 0
    assert "parameters train (" in result.stderr
    assert "nothing was trained" in result.stderr
    assert re.search(r"^\*cls\*: [\d,]+ parameters, lr [\d.]+, weight decay 0.1$", result.stderr, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "resolved.yaml").write_text(result.stdout)
    again = runner.invoke(app, ["finetune", "resolved.yaml", "--dry-run"])
    assert again.stdout == result.stdout
