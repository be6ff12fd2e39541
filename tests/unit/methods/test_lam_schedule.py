"""lam on its way to another value during training, and what that means for the weights that are kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from geopeft_cli.methods.most import MoST
from geopeft_cli.recipe.methods import LamSchedule
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import open_trained

EPOCHS = 11


def schedule(to: float = 0.0, from_epoch: int = 0, until_epoch: int | None = None) -> dict[str, Any]:
    return {"to": to, "from_epoch": from_epoch, "until_epoch": until_epoch}


def lams(**values: Any) -> list[float]:
    method = MoST(lam=0.5, lam_schedule=schedule(**values) if values else None)
    found = []
    for epoch in range(EPOCHS):
        method.start_epoch(epoch, EPOCHS)
        found.append(method.rectify.lam)
    return found


def test_without_a_schedule_lam_stays() -> None:
    assert lams() == [0.5] * EPOCHS
    assert all(MoST().is_settled(epoch, EPOCHS) for epoch in range(EPOCHS))


def test_half_a_cosine_that_ends_exactly() -> None:
    found = lams(to=0.0)
    expected = [0.25 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(EPOCHS)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert (found[0], found[-1]) == (0.5, 0.0)  # exactly: the fold depends on it


def test_begins_and_ends_where_it_is_told() -> None:
    found = lams(to=0.1, from_epoch=2, until_epoch=6)
    assert found[:3] == [0.5] * 3
    assert found[4] == pytest.approx(0.3)
    assert found[6:] == [0.1] * 5
    assert sorted(found, reverse=True) == found
    method = MoST(lam_schedule=schedule(until_epoch=6))
    assert [method.is_settled(epoch, EPOCHS) for epoch in (0, 5, 6, 10)] == [False, False, True, True]


def test_an_end_behind_the_last_epoch_is_the_last_epoch() -> None:
    assert lams(until_epoch=100)[-1] == 0.0
    assert MoST(lam_schedule=schedule(until_epoch=100)).is_settled(EPOCHS - 1, EPOCHS)
    assert not MoST(lam_schedule=schedule()).is_settled(EPOCHS - 2, EPOCHS)


def test_a_start_behind_the_last_epoch_leaves_lam_until_the_last() -> None:
    assert lams(from_epoch=50) == [0.5] * (EPOCHS - 1) + [0.0]


def test_an_end_before_its_start_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above from_epoch, 5, is 5"):
        LamSchedule(from_epoch=5, until_epoch=5)


@pytest.fixture
def annealed(tiny_recipe: Any, tmp_path: Path) -> Path:
    from geopeft_cli.verbs.finetune import finetune

    return finetune(tiny_recipe, ANNEALED, tmp_path / "run").folder


ANNEALED = ["method={name: most, blocks: 4, lam: 0.5, lam_schedule: {to: 0.0}}", "training.epochs=3"]


def test_an_annealed_adapter_is_rebuilt_without_k_and_folds_exactly(annealed: Path, tmp_path: Path) -> None:
    model = open_trained(annealed).model
    layers = [module for module in model.modules() if hasattr(module, "rectify")]
    assert layers
    assert {layer.rectify.lam for layer in layers} == {0.0}
    merged = tmp_path / "merged.safetensors"
    result = merge_trained(annealed, merged).merged
    assert (result.mode, result.exact) == ("exact", True)
    assert not any(".most." in name for name in open_trained(merged).model.state_dict())
    assert evaluate_trained(merged).metrics == evaluate_trained(annealed).metrics


def test_only_epochs_at_the_end_of_the_schedule_compete(tiny_recipe: Any, tmp_path: Path) -> None:
    from geopeft_cli.verbs.finetune import finetune

    run = finetune(tiny_recipe, [*ANNEALED, "training.select=best_test"], tmp_path / "run")
    assert run.selection.startswith("epoch 3 of 3")
    with torch.no_grad():
        assert open_trained(run.folder).model.training is False
