"""The commands of the README and the quickstart, really run, at a tiny size."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from geopeft_cli.cli.app import app

PROJECT = Path(__file__).resolve().parents[2]
TINY = ["training.epochs=1", "training.warmup_epochs=0", "data.train_per_class=2", "data.validation_per_class=0"]
SMALL = ["training.epochs=1", "training.warmup_epochs=0", "training.schedule=cosine", "data.points=64"]


def geopeft(*arguments: object) -> str:
    """Run a command that must succeed; what it prints."""
    runner = typer.testing.CliRunner(env={"TERM": "dumb", "COLUMNS": "120"})
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (arguments, result.stderr, result.exception)
    return result.stdout


def after(heading: str, text: str, language: str) -> str:
    """The first block of a language below a heading."""
    section = text[text.index(f"\n## {heading}\n") :]
    match = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert match is not None
    return match[1]


@pytest.mark.slow
def test_the_five_verbs_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    lines = [shlex.split(line)[1:] for line in after("The five verbs", readme, "sh").splitlines()]
    train, *rest = lines
    assert [line[0] for line in lines] == ["finetune", "eval", "merge", "export", "inspect"]
    geopeft(train[0], PROJECT / train[1], *train[2:], *TINY, "data.test_per_class=1")
    run = Path(train[train.index("--output") + 1])
    left = {"recipe.yaml", "metrics.jsonl", "checkpoints", "adapter", "report.html"}
    assert {path.name for path in run.iterdir()} == left
    for line in rest:
        if line[0] != "export":  # ONNX takes its time and has tests of its own
            geopeft(*line)
    assert "by keep-k, exact" in geopeft("merge", run, "--output", "again.safetensors")
    geopeft("merge", run, "--mode", "calibrated-scalar", "--output", "plain.safetensors")
    told = geopeft("export", "plain.safetensors", "--format", "official", "--output", "finetuned.pth")
    assert "largest difference of a logit 0.0e+00" in told


def test_the_recipe_of_the_readme_for_scans(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path / "scans")
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(after("Your own scans", readme, "yaml"))
    (tmp_path / "pretrain.safetensors").write_bytes(tiny_base.read_bytes())
    base = ["backbone.checkpoint=pretrain.safetensors", "backbone.groups=8", "backbone.group_size=8"]
    geopeft("finetune", "recipe.yaml", *SMALL, *base, "training.batch_size=4")
    found = json.loads(geopeft("eval", "runs/my_scans", "--json"))
    assert found["classes"] == ["chair", "table"]
    assert found["clouds"] == 2
    assert re.search(r"best on the validation split", found["weights_kept"])


def test_templates_train_on_a_folder(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path / "scans")
    base = [f"backbone.checkpoint={tiny_base}", "backbone.groups=8", "backbone.group_size=8", "training.batch_size=4"]
    for method in ("lora", "most"):
        geopeft("inspect", "--copy", f"classification/folder/point_mae_{method}", f"{method}.yaml")
        geopeft("finetune", f"{method}.yaml", *SMALL, *base, "--output", method)


def write_scans(root: Path) -> None:
    """Two classes of five clouds each."""
    for kind, stretch in (("chair", 1.0), ("table", 2.0)):
        (root / kind).mkdir(parents=True)
        for index in range(5):
            points = np.random.default_rng(index).normal(size=(80, 3)) * [1.0, stretch, 1.0]
            np.save(root / kind / f"{index}.npy", points)
