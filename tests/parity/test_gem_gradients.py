"""Gradients that reach the adapters of GEM, against recorded norms."""

from __future__ import annotations

from pathlib import Path

import pytest

from geopeft_cli.contracts import official_parameters
from parity.golden_set import GoldenSet
from parity.subjects.gem import adapted
from parity.subjects.scenes import scenes_of


def test_norms_of_gradients(parity_root: Path) -> None:
    golden = GoldenSet(parity_root / "gem_small_cfg")
    model = adapted(golden, next(route for route in golden.routes() if route.name == "gem"))
    model.encode(scenes_of(golden, "")).features.square().mean().backward()
    parameters, recorded = (
        official_parameters(model),
        golden.meta["grad_norms_of_mean_square_of_upcast_all_first_scene_set"],
    )
    assert recorded
    for name, norm in recorded.items():
        gradient = parameters[name].grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3)
