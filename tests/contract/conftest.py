"""Every backbone with every method, and each backbone once with feature fusion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from contract.subject import Subject, write_checkpoint
from geopeft_cli.backbones import BACKBONES
from geopeft_cli.methods import METHODS
from geopeft_cli.recipe.schema import WITHOUT_ATTENTION


@pytest.fixture(scope="session", params=sorted(BACKBONES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A backbone's name and an official pre-training file of a tiny one."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, write_checkpoint(request.param, folder / "pretrain.pth")


FUSION = {"fusion": {"layers": 2, "affine": True}}
# Every method, and what its defaults do not reach: recipe name, settings, task.
FORMS: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    **{name: (name, {}, {}) for name in METHODS},
    "most_fusion": ("most", {}, FUSION),
    "most_released": ("most", {"variant": "released"}, {}),
    "point_peft_aligned": ("point_peft", {"variant": "aligned", "prompts": 6}, FUSION),
    "point_peft_identity": ("point_peft", {"prompt": False, "init": "identity"}, {}),
}
ONLY = {
    "adapter": ("mamba3d", "point_gpt"),
    "prompt": ("point_gpt", "point_m2ae"),
    "gem": ("point_gpt", "point_m2ae", "point_mae", "recon"),
    "point_peft_aligned": ("point_m2ae", "point_mae"),
    "point_peft_identity": ("point_m2ae", "recon"),
}


@pytest.fixture(params=sorted(FORMS))
def subject(request: pytest.FixtureRequest, checkpoint: tuple[str, Path]) -> Subject:
    method, settings, task = FORMS[request.param]
    if method in ("point_peft", "prompt", "gem") and checkpoint[0] in WITHOUT_ATTENTION:
        pytest.skip(f"{checkpoint[0]} has no transformer blocks")
    if checkpoint[0] not in ONLY.get(request.param, BACKBONES):
        pytest.skip("takes time, and others do the same")
    return Subject(checkpoint[0], method, checkpoint[1], task, settings)
