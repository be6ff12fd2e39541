"""Every backbone with every method, without and with feature fusion."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.subject import Subject, write_checkpoint
from geopeft_cli.backbones import BACKBONES
from geopeft_cli.methods import METHODS

TASKS = {"plain": {}, "fusion": {"fusion": {"layers": 2, "affine": True}}}


@pytest.fixture(scope="session", params=sorted(BACKBONES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A backbone's name and an official pre-training file of a tiny one."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, write_checkpoint(request.param, folder / "pretrain.pth")


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=sorted(TASKS))
def subject(request: pytest.FixtureRequest, checkpoint: tuple[str, Path], method: str) -> Subject:
    return Subject(checkpoint[0], method, checkpoint[1], TASKS[request.param])
