"""``report.html``: left by every run, the same when it is made again, and never the reason why a run fails."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.errors import GeopeftError, UsageError
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.report import report_again


def test_a_run_leaves_the_report_that_is_made_again(most_run: Path, tmp_path: Path) -> None:
    left = (most_run / "report.html").read_text()
    result = evaluate_trained(most_run)
    wrong = sum(map(sum, result.confusion)) - sum(row[i] for i, row in enumerate(result.confusion))
    assert left.count('<article class="cloud"') == min(wrong, 12) > 0
    assert f"<b>{result.metrics['accuracy']:.2f} %</b>accuracy" in left
    assert "Weights kept: last of 2 epochs" in left
    again = tmp_path / "again.html"
    told = CliRunner().invoke(app, ["inspect", str(most_run), "--report", str(again)])
    assert (told.exit_code, told.stdout, told.stderr) == (0, f"report: {again}\n", "")
    assert again.read_text() == left


@pytest.mark.parametrize("arguments", [["--report", "a"], ["run", "--report", "a", "--json"], ["run", "a=b"]])
def test_options_that_do_not_go_together(arguments: list[str]) -> None:
    told = CliRunner().invoke(app, ["inspect", *arguments])
    assert told.exit_code == 2
    assert "--report needs a run" in told.stderr or "only with" in told.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GeopeftError("no space", "Make some."), "no space"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_a_report_that_cannot_be_written_is_a_warning(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: str,
) -> None:
    def fail(*_: Any) -> str:
        raise error

    monkeypatch.setattr("geopeft_cli.verbs.report.run_page", fail)
    with caplog.at_level(logging.WARNING, "geopeft"):
        run = finetune(tiny_recipe, ["training.epochs=1"], tmp_path / "run")
    assert caplog.messages == [f"{run.folder / 'report.html'} was not written: {told}"]
    assert run.summary["finished"] is True
    assert not (run.folder / "report.html").exists()


def test_only_a_finished_run_has_a_report(most_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    for other in (most_run / "adapter", tmp_path / "nothing"):
        with pytest.raises(UsageError, match="is not a finished run"):
            report_again(other, file)
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        report_again(most_run, file)
    assert file.read_text() == "mine"


def test_a_log_that_is_cut_off_costs_its_curves_only(most_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(most_run, tmp_path / "run"))
    (run / "metrics.jsonl").write_text('{"epo')
    report_again(run, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r'class="chart"|highest memory', text)
    assert '<article class="cloud"' in text
