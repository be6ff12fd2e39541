"""Bad input through the command line: what must be true of every refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app

Refused = Callable[..., str]
runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "80"})


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """``refused(*arguments, code=...)``: run geopeft in an empty folder and return what it says on stderr.

    It must end with that exit code, a message, no traceback, nothing on stdout, and leave every file as it was.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int) -> str:
        before = listing(tmp_path)
        result = runner.invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert (result.exit_code, result.stdout) == (code, ""), result.stderr
        assert listing(tmp_path) == before
        assert result.stderr.endswith("\n")
        assert "Traceback" not in result.stderr
        return result.stderr

    return run


@pytest.fixture
def adapter(most_run: Path, tmp_path: Path) -> Path:
    """A copy of an adapter, for a test to damage."""
    return Path(shutil.copytree(most_run / "adapter", tmp_path / "adapter"))


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    """A folder of two classes with six small clouds each."""
    root = tmp_path / "clouds"
    generator = np.random.default_rng(0)
    for label in ("cube", "stick"):
        (root / label).mkdir(parents=True)
        for index in range(6):
            np.savetxt(root / label / f"{index}.xyz", generator.normal(size=(140, 3)), fmt="%.4f")
    return root
