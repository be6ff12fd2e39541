"""The commands of the README and the quickstart, really run, at a tiny size."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer.testing
import yaml

from geopeft_cli.cli.app import app
from geopeft_cli.verbs.comparison import attempt

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
    write_scans(tmp_path / "new_scans")
    (tmp_path / "runs/my_other_scans").symlink_to(tmp_path / "runs/my_scans")
    page = (PROJECT / "docs/predicting.md").read_text(encoding="utf-8")
    line = shlex.split(after("Your own scans", readme, "sh"))
    assert geopeft(*line[1:]) == "found: 10 predicted\n"
    for heading in ("From Python", "Several adapters on one base"):
        exec(compile(after(heading, page, "python"), heading, "exec"), {})
    exec(compile(after("Your own scans", readme, "python"), "README.md", "exec"), {})


def test_templates_train_on_a_folder(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path / "scans")
    base = [f"backbone.checkpoint={tiny_base}", "backbone.groups=8", "backbone.group_size=8", "training.batch_size=4"]
    for method in ("lora", "most"):
        geopeft("inspect", "--copy", f"classification/folder/point_mae_{method}", f"{method}.yaml")
        geopeft("finetune", f"{method}.yaml", *SMALL, *base, "--output", method)


def test_the_comparison_of_its_page(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two recipes and its first command, with one seed; the processes of the runs have a test of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("geopeft_cli.verbs.comparison.in_own_process", attempt)
    page = (PROJECT / "docs/comparisons.md").read_text(encoding="utf-8")
    for recipe in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        Path(f"{yaml.safe_load(recipe)['name']}.yaml").write_text(recipe)
    first = re.search(r"```sh\n(.*?)\n```", page)
    assert first is not None
    small = [*TINY, "data.test_per_class=1", "data.points=64"]
    base = [f"backbone.checkpoint={tiny_base}", "backbone.groups=8", "backbone.group_size=8"]
    told = geopeft(*shlex.split(first[1])[1:], "--seeds", "0", *small, *base)
    assert re.search(r"^lora +1 of 1 +\d+\.\d\d +- .*\nmost +1 of 1 +\d+\.\d\d +- ", told, re.MULTILINE)
    folder = Path("runs/lora_and_most")
    files = {path.name for path in folder.iterdir()}
    assert files == {"lora", "most", "comparison.csv", "comparison.html", "comparison.tex"}
    assert (folder / "most/seed0/adapter").is_dir()


def write_scans(root: Path) -> None:
    """Two classes of five clouds each."""
    for kind, stretch in (("chair", 1.0), ("table", 2.0)):
        (root / kind).mkdir(parents=True)
        for index in range(5):
            points = np.random.default_rng(index).normal(size=(80, 3)) * [1.0, stretch, 1.0]
            np.save(root / kind / f"{index}.npy", points)
