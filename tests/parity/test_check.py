"""What the checker prints and returns: passes, failures of every kind, and directories that it cannot run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parity.check import main
from parity.fill import Array
from parity.make_core import TARGET

LINE = re.compile(r"^(\S+) +(\S+) +(\S+)  (ok|FAIL)(?:  (.+))?$", re.MULTILINE)
PROJECT = Path(__file__).resolve().parents[2]

Edit = Callable[[Path], None]


def edited(tmp_path: Path, name: str, edit: Edit) -> Path:
    folder = tmp_path / name
    shutil.copytree(TARGET / name, folder)
    edit(folder)
    return folder


def tensors(change: Callable[[dict[str, Array]], Any]) -> Edit:
    def edit(folder: Path) -> None:
        content = load_file(folder / "io.safetensors")
        change(content)
        save_file(content, folder / "io.safetensors")

    return edit


def meta(change: Callable[[dict[str, Any]], Any]) -> Edit:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "meta.json").read_text())
        change(content)
        (folder / "meta.json").write_text(json.dumps(content))

    return edit


def test_one_line_for_each_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(TARGET / "peft_interop"), str(TARGET / "ops_fps_knn")]) == 0
    first, second = LINE.findall(capsys.readouterr().out)
    assert first[0] == "peft_interop"
    assert 0 <= float(first[1]) <= float(first[2]) < 1e-4
    assert first[3:] == ("ok", "")
    assert second == ("ops_fps_knn", "0", "0", "ok", "")


def test_verbose_has_a_line_for_every_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verbose", str(TARGET / "peft_interop")]) == 0
    labels = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == [
        "peft_interop", "io.safetensors:y_base", "io.safetensors:y_lora", "adapter_config.json",
        "adapter_model.safetensors",
    ]  # fmt: skip


def add(name: str, amount: float) -> Edit:
    return tensors(lambda content: content.update({name: content[name] + np.float32(amount)}))


def swap_picks(content: dict[str, Array]) -> None:
    content["all_300_300.fps"][0, [7, 8]] = content["all_300_300.fps"][0, [8, 7]]


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        ("peft_interop", add("y_lora", 1e-3), "y_lora"),
        ("peft_interop", add("x", 1e-2), "y_"),
        ("ops_fps_knn", tensors(swap_picks), "all_300_300.fps"),
        (
            "ops_fps_knn",
            tensors(lambda content: content.update({"new.fps": np.zeros(3, "i4")})),
            "new.fps: not produced",
        ),
        ("ops_fps_knn", tensors(lambda content: content.update({"other": np.zeros(3)})), "other: no entry"),
        ("peft_interop", tensors(lambda content: content.pop("y_base")), "y_base: recorded in no file"),
        ("peft_interop", tensors(lambda content: content.pop("x")), "KeyError: 'x'"),
        ("peft_interop", lambda folder: (folder / "io.safetensors").write_bytes(b"damaged"), "SafetensorError"),
        ("peft_interop", lambda folder: (folder / "keys.json").unlink(), "FileNotFoundError"),
        ("peft_interop", meta(lambda content: content.update(outputs={})), "io.safetensors:y_base: no entry"),
    ],
)
def test_a_failure_is_a_line_with_its_reason(
    name: str, edit: Edit, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(edited(tmp_path, name, edit))]) == 1
    printed = capsys.readouterr()
    ((found, _, _, verdict, note),) = LINE.findall(printed.out)
    assert (found, verdict) == (name, "FAIL")
    assert reason in note
    assert printed.err == ""


def test_the_number_of_differing_entries_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(edited(tmp_path, "ops_fps_knn", tensors(swap_picks)))]) == 1
    assert LINE.findall(capsys.readouterr().out)[0][1:4] == ("2", "0", "FAIL")


def test_outputs_of_coupled_released_code_are_optional(tmp_path: Path) -> None:
    rule = {"compare": "close", "atol": 0.0, "rtol": 0.0, "applies_to": "released"}

    def edit(folder: Path) -> None:
        tensors(lambda content: content.update({"joint.y": np.zeros(3)}))(folder)
        meta(lambda content: content["outputs"].update({"joint.*": rule}))(folder)

    assert main([str(edited(tmp_path, "peft_interop", edit))]) == 0


def test_directories_without_a_model_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = edited(tmp_path, "peft_interop", meta(lambda content: content.update(set="another_net")))
    later = edited(tmp_path / "later", "peft_interop", meta(lambda content: content.update(schema=2)))
    broken = edited(tmp_path, "ops_fps_knn", tensors(swap_picks))
    for folder, reason in ((unknown, "no model for the set another_net"), (later, "schema 2"), (tmp_path, "meta.json")):
        assert main([str(folder), str(TARGET / "peft_interop")]) == 2
        printed = capsys.readouterr()
        assert [line[3] for line in LINE.findall(printed.out)] == ["ok"]
        assert printed.err.count("\n") == 1
        assert str(folder) in printed.err
        assert reason in printed.err
    assert main([str(unknown), str(broken)]) == 1


@pytest.mark.slow
def test_it_runs_as_a_script_from_the_project_root() -> None:
    command = [sys.executable, "tests/parity/check.py", str(TARGET / "peft_interop"), "nowhere"]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (run.returncode, [line[3] for line in LINE.findall(run.stdout)]) == (2, ["ok"])
    assert run.stderr == "nowhere is not a golden set: it has no meta.json\n"
