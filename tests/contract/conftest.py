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
    "point_peft_aligned": ("point_peft", {"variant": "aligned", "prompts": 6}),
    "point_peft_identity": ("point_peft", {"prompt": False, "init": "identity"}),
}
WITHOUT_BLOCKS = ("mamba3d",)  # no method that wraps transformer blocks attaches to them
LARGE = {"point_peft": ("point_mae",), "point_peft_aligned": (), "point_peft_identity": ()}  # with fusion on these only
FEW = {"point_peft_aligned": ("point_m2ae", "point_mae"), "point_peft_identity": ("point_m2ae", "recon")}


@pytest.fixture(params=sorted(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(TASKS))
def subject(request: pytest.FixtureRequest, checkpoint: tuple[str, Path], form: str) -> Subject:
    (backbone, path), (name, settings) = checkpoint, FORMS[form]
    if name == "point_peft" and backbone in WITHOUT_BLOCKS:
        pytest.skip(f"{backbone} has no transformer blocks")
    fused = request.param == "fusion" and backbone not in LARGE.get(form, BACKBONES)
    if fused or backbone not in FEW.get(form, BACKBONES):
        pytest.skip("takes time, and others do the same")
    return Subject(backbone, name, path, TASKS[request.param], settings)
