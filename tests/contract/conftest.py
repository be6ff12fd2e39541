"""Every backbone with every method, without and with feature fusion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


# Forms of a method that the defaults do not reach: recipe name and settings.
FORMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "most_released": ("most", {"variant": "released"}),
}


@pytest.fixture(params=sorted(FORMS))
def method(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Any]]:
    return FORMS[request.param]


@pytest.fixture(params=sorted(TASKS))
def subject(
    request: pytest.FixtureRequest, checkpoint: tuple[str, Path], method: tuple[str, Mapping[str, Any]]
) -> Subject:
    name, settings = method
    return Subject(checkpoint[0], name, checkpoint[1], TASKS[request.param], settings)
