"""The frame of the command line: its verbs, its errors, its streams, and what it does not import."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from geopeft_cli import __version__
from geopeft_cli.cli.app import app, reported
from geopeft_cli.errors import CheckpointError, GeopeftError, UsageError
from geopeft_cli.recipe import catalog

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = """\
name: small
data: {format: shapes}
backbone: {checkpoint: "embedded:point_mae_tiny"}
method: {name: lora}
"""

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "100"})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with one shipped recipe, ``quickstart``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "recipes_root", lambda: tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/quickstart.yaml").write_text(RECIPE + "description: Begin [here]\n")
    return tmp_path


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1", "COLUMNS": "80"}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environment, **options
    )


def test_help_lists_the_verbs() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(verb in result.stdout for verb in ("finetune", "eval", "merge", "export", "inspect", "--version"))


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("finetune", ["RECIPE", "KEY=VALUE", "--output", "--resume", "--dry-run", "geopeft finetune quickstart"]),
        ("eval", ["RUN|ADAPTER", "KEY=VALUE", "--json", "--input", "--predictions", "--category", "--skip-bad"]),
        ("merge", ["RUN|ADAPTER|FILE", "--output", "--mode", "--to-lora", "Undo a merge", "--unmerge", "[required]"]),
        ("export", ["RUN|ADAPTER", "--format", "--output", "[required]"]),
        (
            "inspect",
            ["RECIPE|RUN|ADAPTER|CHECKPOINT", "--json", "--recipes", "--copy", "NAME FILE", "--local-distance"],
        ),
    ],
)
def test_help_of_a_verb(verb: str, words: list[str]) -> None:
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert [word for word in words if word not in result.stdout] == []


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"geopeft {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetun", "x"], "Did you mean 'finetune'?"),
        (["finetune"], "Missing argument 'RECIPE'"),
        (["finetune", "x", "--resum"], "No such option"),
        (["merge", "x"], "Missing option '--output'"),
        (["merge", "x", "--output", "y", "--mode", "exakt"], "'calibrated-scalar'"),
        (["merge", "x", "--output", "y", "--to-lora", "0"], "Invalid value for '--to-lora'"),
        (["export", "x", "--output", "y", "--format", "tflite"], "'official'"),
        (["inspect", "--copy", "quickstart"], "requires 2 arguments"),
        (["inspect", "x", "--local-distance", "--neighbors", "0"], "Invalid value for '--neighbors'"),
        (["inspect", "x", "--plot", "a.svg", "seed=1"], "seed=1, --plot: only with --local-distance"),
        (["inspect", "x", "--local-distance", "--plot", "a.pdf"], "a plot is a .svg or a .png file"),
        (["inspect", "x", "--local-distance", "--compare", "a", "b"], "unexpected argument 'b'"),
        (["inspect", "--recipes", "--local-distance"], "--local-distance needs a recipe"),
        (["inspect", "x", "--local-distance"], "no such file, and no shipped recipe"),
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to-lora", "2", "--unmerge"], "merge takes one of --to-lora, --reversible, --unmerge, not --to-lora and "
         "--unmerge"),
        (["--to-lora", "2", "--reversible"], "merge takes one of --to-lora, --reversible, --unmerge, not --to-lora and "
         "--reversible"),
        (["--reversible", "--unmerge"], "merge takes one of --to-lora, --reversible, --unmerge, not --reversible and "
         "--unmerge"),
        (["--unmerge", "--mode", "dc"], "--mode does not go with --unmerge\nThe merged file records its mode."),
        (["--adapter", "run"], "--adapter goes with --unmerge only"),
        (["--adapter", "run", "--to-lora", "2"], "--adapter goes with --unmerge only"),
    ],
)  # fmt: skip
def test_merge_does_one_thing_at_a_time(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, ["merge", "x", "--output", "y", *arguments])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.usefixtures("here")
def test_inspect_recipes() -> None:
    result = runner.invoke(app, ["inspect", "--recipes"])
    assert (result.exit_code, result.stdout) == (0, "quickstart  Begin [here]\n")
    result = runner.invoke(app, ["inspect", "--recipes", "--json"])
    assert [(row["name"], row["description"]) for row in json.loads(result.stdout)] == [("quickstart", "Begin [here]")]


def test_inspect_copy(here: Path) -> None:
    result = runner.invoke(app, ["inspect", "--copy", "quickstart", "mine.yaml"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "geopeft finetune mine.yaml" in result.stderr
    assert (here / "mine.yaml").read_text().startswith(RECIPE)
    result = runner.invoke(app, ["inspect", "--copy", "quickstart", "mine.yaml"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: mine.yaml: exists; not overwritten\ngive another file name\n",
    )


@pytest.mark.parametrize("arguments", [[], ["x", "--recipes"], ["--recipes", "--copy", "a", "b"]])
def test_inspect_one_thing_at_a_time(arguments: list[str]) -> None:
    result = runner.invoke(app, ["inspect", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: inspect takes one of: a target, --recipes, --copy\n")


@pytest.mark.usefixtures("here")
def test_dry_run_prints_the_resolved_recipe() -> None:
    quoted = "published=[{metric: accuracy, value: 90.5, source: a paper, protocol: best of many}]"
    arguments = ["finetune", "quickstart", "method.rank=3", "--dry-run", "training.lr=1e-3", quoted]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    assert "  rank: 3\n" in result.stdout
    assert "  lr: 0.001\n" in result.stdout
    told = result.stderr.splitlines()
    assert told[0].startswith("protocol: shapes, 1024 points, sampling random")
    assert told[0].endswith("; one view, no voting")
    assert told[1] == "published: 90.5, accuracy; a paper; best of many"
    assert told[-1].endswith("14 classes; nothing was trained")


@pytest.mark.usefixtures("here")
def test_recipe_mistakes_are_lines_that_begin_with_the_place(here: Path) -> None:
    folder = here / ("long" * 40)
    folder.mkdir()
    (folder / "r.yaml").write_text(RECIPE + "'[bold]sede[/bold]': 1\nlr: ':smile:'\n")
    name = f"{folder.name}/r.yaml"
    result = runner.invoke(app, ["finetune", name, "seed=x", "--dry-run"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{name}:5: unknown key '[bold]sede[/bold]'",
        f"{name}:6: unknown key 'lr'. Did you mean 'training.lr'?",
        "argument 'seed=x': seed must be a whole number, is 'x'",
    ]


def _run(error: BaseException) -> tuple[int, str]:
    small = typer.Typer(pretty_exceptions_enable=False)

    @small.command()
    @reported
    def fail() -> None:
        raise error

    result = runner.invoke(small, [])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("a [red]b[/red]", "do c"), (2, "error: a [red]b[/red]\ndo c\n")),
        (CheckpointError(f"{'x' * 200} y"), (1, f"error: {'x' * 200} y\n")),
        (GeopeftError("half \ud800 of :smile:"), (1, "error: half \\ud800 of :smile:\n")),
        (KeyboardInterrupt(), (130, "interrupted\n")),
    ],
)
def test_foreseeable_errors_are_messages(error: BaseException, expected: tuple[int, str]) -> None:
    assert _run(error) == expected


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), BrokenPipeError("of a worker, not of our output")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        _run(error)


def test_warnings_go_to_stderr(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(name: str, file: Path) -> Path:
        logging.getLogger("geopeft.data").warning("%s points are missing", 3)
        logging.getLogger("geopeft.data").info("not shown")
        return file

    monkeypatch.setattr(catalog, "copy_recipe", warn)
    for _ in range(2):
        result = runner.invoke(app, ["inspect", "--copy", "quickstart", "mine.yaml"])
        assert result.stderr.splitlines()[0] == "warning: 3 points are missing"
        assert result.stderr.count("warning") == 1
        assert result.stdout == ""


def test_module_starts_without_torch_or_pydantic(tmp_path: Path) -> None:
    result = python("-X", "importtime", "-m", "geopeft_cli", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "finetune" in result.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "numpy", "pydantic", "yaml", "open3d"})


def test_the_package_is_imported_without_torch() -> None:
    code = "import geopeft_cli, sys; geopeft_cli.load; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert python("-c", code).returncode == 0


def test_recipes_are_read_without_torch(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    code = (
        "import sys; from geopeft_cli.recipe.load import load_recipe; "
        "assert load_recipe('r.yaml').name == 'small'; sys.exit('torch' in sys.modules)"
    )
    result = python("-c", code, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_bug_shows_its_plain_traceback(tmp_path: Path) -> None:
    code = (
        "import geopeft_cli.recipe.catalog as catalog; catalog.list_recipes = lambda: 1 / 0; "
        "import sys; sys.argv = ['geopeft', 'inspect', '--recipes']; from geopeft_cli.__main__ import main; main()"
    )
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")
def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "geopeft_cli", "finetune", "r.yaml", "--dry-run"]
    result = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, env=environment, cwd=tmp_path
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")
def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; import geopeft_cli.recipe.catalog as catalog; "
        "catalog.list_recipes = lambda: os.kill(os.getpid(), signal.SIGINT); "
        "sys.argv = ['geopeft', 'inspect', '--recipes']; from geopeft_cli.__main__ import main; main()"
    )
    result = python("-c", code, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (128 + signal.SIGINT, "", "interrupted\n")
