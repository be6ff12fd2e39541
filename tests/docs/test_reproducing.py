"""The commands that reproduce published numbers, planned on a stand-in for the data, print what the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import typer.testing

from geopeft_cli.assets.pretrain_point_mae_tiny import save
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.cli.app import app

PAGE = (Path(__file__).resolve().parents[2] / "docs/protocols.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("\n## Reproducing a published number\n") :]
COMMANDS = re.findall(r"^geopeft (.*--dry-run)$", SECTION, re.MULTILINE)
SHOWN = re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of ScanObjectNN with two clouds a class, and Point-MAE at full size with random weights."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "ScanObjectNN/main_split").mkdir(parents=True)
    for part in ("training", "test"):
        name = f"{part}_objectdataset_augmentedrot_scale75.h5"
        with h5py.File(folder / "ScanObjectNN/main_split" / name, "w") as file:
            file["data"] = np.random.default_rng(0).normal(size=(30, 2048, 3)).astype(np.float32)
            file["label"] = np.arange(30) % 15
    with torch.random.fork_rng():
        save(PointMAE(), folder / "pretrain.safetensors")
    return folder


def test_there_is_a_command_for_each_output() -> None:
    assert [command.split()[1] for command in COMMANDS] == [
        "classification/scanobjectnn/point_mae_full",
        "classification/scanobjectnn/point_mae_most",
    ]
    assert len(SHOWN) == len(COMMANDS)


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_what_the_page_shows_is_printed(stand_in: Path, number: int) -> None:
    words = shlex.split(COMMANDS[number])
    places = {"data.root": stand_in / "ScanObjectNN", "backbone.checkpoint": stand_in / "pretrain.safetensors"}
    values = [f"{key}={places[key]}" if (key := word.partition("=")[0]) in places else word for word in words]
    result = typer.testing.CliRunner(env={"TERM": "dumb", "COLUMNS": "120"}).invoke(app, values)
    assert result.exit_code == 0, result.stderr
    told = result.stderr.splitlines()
    assert "select: best_test" in result.stdout
    assert [line for line in SHOWN[number].splitlines() if line not in told] == []
    assert told[-1].endswith("nothing was trained")
