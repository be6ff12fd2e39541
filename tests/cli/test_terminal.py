"""Streams and signals: quiet into a pipe, a bar on a terminal, and what Ctrl-C leaves."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.reports.records import read_records

fcntl, pty, termios = (pytest.importorskip(name, reason="POSIX") for name in ("fcntl", "pty", "termios"))
pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1", "COLUMNS": "120", "TERM": "xterm"}
GEOPEFT = (sys.executable, "-W", "error", "-m", "geopeft_cli")


def test_the_module_is_quiet_where_there_is_no_terminal(tiny_recipe: Path, tmp_path: Path) -> None:
    command = [*GEOPEFT, "finetune", str(tiny_recipe), "--output", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, timeout=120, env=ENVIRONMENT, check=False)
    assert result.returncode == 0
    assert result.stderr == b""
    assert b"\r" not in result.stdout
    assert b"\x1b" not in result.stdout


def on_a_terminal(*arguments: object, interrupt_at: str | None = None) -> tuple[int, str]:
    """Run with stderr and stdout on a pseudo-terminal; Ctrl-C once ``interrupt_at`` is seen."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    command = [*GEOPEFT, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT, start_new_session=True
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([mine], [], [], 0.2)[0]:
            try:
                part = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        if interrupt_at and interrupt_at.encode() in seen:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    os.close(mine)
    return process.wait(timeout=20), seen.decode()


def test_ctrl_c_on_a_terminal_leaves_a_run_that_goes_on(tiny_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("finetune", tiny_recipe, "training.epochs=400", "--output", run)
    code, seen = on_a_terminal(*command, interrupt_at="epoch 3/400")
    assert code == 130, seen
    assert "Traceback" not in seen
    assert re.search(r"\repoch \d+/400: .*/800 \[.*<.*(step/s|s/step), acc=\d+%, loss=\d\.\d{3}, lr=\d", seen)
    assert re.search(r"epoch 1/400  loss \d+\.\d+  train \d+\.\d %  validation \d+\.\d %", seen)
    told = f"go on with geopeft finetune {run / 'recipe.yaml'} --output {run} --resume"
    assert told in seen.replace("\r\n", "")
    assert seen.rstrip().endswith("interrupted")
    assert not (run / "adapter").exists()

    done = [record["epoch"] for record in read_records(run / "metrics.jsonl")]
    assert done == list(range(len(done)))
    assert len(done) >= 2
    again = CliRunner().invoke(app, ["finetune", str(tiny_recipe), "--output", str(run), "--resume"])
    assert again.exit_code == 2
    assert "was started with another recipe: training.epochs differ" in again.stderr


def test_an_interrupted_command_goes_on(tiny_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*GEOPEFT, "finetune", str(tiny_recipe), "training.epochs=12", "--output", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    state, deadline = run / "checkpoints/last.pt", time.monotonic() + 100
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines() == [
        f"warning: go on with geopeft finetune {run / 'recipe.yaml'} --output {run} --resume",
        "interrupted",
    ]
    again = CliRunner().invoke(app, ["finetune", str(run / "recipe.yaml"), "--output", str(run), "--resume"])
    assert (again.exit_code, again.stderr) == (0, "")
    assert "weights kept: last of 12 epochs" in again.stdout
    records = read_records(run / "metrics.jsonl")
    assert [record.get("epoch") for record in records] == [*range(12), None]
    assert CliRunner().invoke(app, ["eval", str(run)]).exit_code == 0
