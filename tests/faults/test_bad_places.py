"""Outputs that exist, that cannot be made, or that run full while they are written."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app

PROJECT = Path(__file__).resolve().parents[2]
Refused = Callable[..., str]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_finetune_into_something_that_exists(refused: Refused, tiny_recipe: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "taken"
    if kind == "folder":
        output.mkdir()
        (output / "thesis.tex").write_text("x")
    else:
        output.write_text("x")
    message = refused("finetune", tiny_recipe, "--output", output, code=2)
    assert message == f"error: {output} exists\nGo on with it by --resume, choose another --output, or remove it.\n"


@pytest.mark.parametrize("name", ["taken.safetensors", "folder.safetensors"])
def test_merge_into_something_that_exists(refused: Refused, adapter: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "taken.safetensors").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    message = refused("merge", adapter, "--output", name, code=2)
    assert message == f"error: {name} exists\nChoose another --output, or remove it.\n"


@pytest.mark.parametrize("layout", ["onnx", "pt2", "official", "peft"])
@pytest.mark.parametrize("kind", ["file", "folder", "empty folder"])
def test_export_into_something_that_exists(
    refused: Refused, lora_run: Path, tmp_path: Path, layout: str, kind: str
) -> None:
    output = tmp_path / {"onnx": "x.onnx", "pt2": "x.pt2", "official": "x.safetensors", "peft": "x"}[layout]
    if kind == "file":
        output.write_text("x")
    else:
        output.mkdir()
        if kind == "folder" or layout == "peft":  # which may take the place of an empty one
            (output / "y").write_text("x")
    message = refused("export", lora_run, "--format", layout, "--output", output, code=2)
    assert message.startswith(f"error: {output} exists\n")


def test_places_below_a_file(refused: Refused, tiny_recipe: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for arguments in (("finetune", tiny_recipe), ("merge", adapter)):
        message = refused(*arguments, "--output", "file/deep/x.safetensors", code=2)
        assert f"cannot be made: {tmp_path / 'file'} is not a folder that you may write in" in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(refused: Refused, tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    message = refused("finetune", tiny_recipe, "--output", "closed/run", code=2)
    assert "is not a folder that you may write in" in message


def test_a_disk_that_is_full_when_the_state_is_saved(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534\nframe #0")

    monkeypatch.setattr("torch.save", fail)
    result = CliRunner().invoke(app, ["finetune", str(tiny_recipe), "--output", str(tmp_path / "run")])
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{tmp_path / 'run/checkpoints/last.pt'} could not be written" in result.stderr
    assert "frame" not in result.stderr
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_a_disk_that_is_full_when_merging(refused: Refused, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("geopeft_cli.adapters.tensors.save_file", fail)
    message = refused("merge", adapter, "--output", "m.safetensors", code=1)
    assert message == (
        "error: m.safetensors could not be written: No space left on device\n"
        "Check the free space and the permissions there.\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
@pytest.mark.parametrize(("limit", "where"), [(100, "recipe.yaml"), (5_000, "checkpoints/last.pt")])
@pytest.mark.usefixtures("most_run")  # which leaves compiled loops in numba's own cache
def test_a_run_that_outgrows_its_disk(tiny_recipe: Path, tmp_path: Path, limit: int, where: str) -> None:
    """A limit on the size of files makes writes fail in earnest, as a full disk does."""
    output = tmp_path / "run"
    command = [sys.executable, "-m", "geopeft_cli", "finetune", str(tiny_recipe), "--output", str(output)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert result.stderr.startswith(f"error: {output / where} could not be written: ")
    assert len(result.stderr.splitlines()) == 2
    assert not (output / "adapter").exists()
    assert [path.name for path in output.rglob(".*")] == []
