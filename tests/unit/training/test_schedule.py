"""Rates and groups of the optimizer against the tables recorded from the released training code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Wrapper, official_name
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.schedule import decays, epochs_run, learning_rate, parameter_groups

TABLES = ("optim_pointmae_scan", "optim_pointmae_fewshot")


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, parity_root: Path) -> dict[str, Any]:
    path = parity_root / request.param / "optim.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def published(epoch: int, epochs: int, base: float = 5e-4) -> float:
    return learning_rate(
        epoch, base=base, epochs=epochs, warmup_epochs=10, warmup_lr=1e-6, min_lr=1e-6, schedule="cosine_lag"
    )


def test_rates_of_the_released_code(table: dict[str, Any]) -> None:
    epochs = len(table["lr"]) - 1
    assert epochs in (150, 300)
    assert epochs_run("cosine_lag", epochs) == len(table["lr"])
    for epoch, rates in enumerate(table["lr"]):
        for group, rate in zip(table["groups"], rates, strict=True):
            assert published(epoch, epochs, group["base_lr"]) == pytest.approx(rate, rel=1e-12, abs=0), epoch


def test_groups_of_the_released_code(table: dict[str, Any]) -> None:
    model = PointMAE()
    Classification(["a", "b"]).attach(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = parameter_groups(model, 0.05)
    assert [group["weight_decay"] for group in found] == [group["weight_decay"] for group in table["groups"]]
    for group, expected in zip(found, table["groups"], strict=True):
        parameters = group["params"]
        assert isinstance(parameters, list)
        assert sorted(names[id(p)] for p in parameters) == sorted(expected["names"])
        assert len(parameters) == expected["n"]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("cls_token", (1, 1, 8), False),
        ("cls_pos", (1, 1, 8), True),
        ("h_encoder.token_embed.0.weight", (8, 3, 1), False),
        ("norm.weight", (8,), False),
        ("head.bias", (2, 2), False),
        ("blocks.0.qkv.lora_A.weight", (2, 8), True),
    ],
)
def test_which_parameters_decay(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, torch.zeros(shape)) is expected


def test_frozen_parameters_are_in_no_group_and_wrapped_ones_are_judged_by_official_name() -> None:
    class Named(Wrapper):
        pass

    model = nn.Module()
    model.base_token = Named(nn.Linear(3, 3))  # "base_token" is a name of its own, ".base." is a wrapper's level
    model.other = nn.Linear(3, 3)
    model.other.bias.requires_grad_(False)
    spared, decayed = parameter_groups(model, 0.5)
    assert official_name("base_token.base.weight") == "base_token.weight"
    assert [tuple(p.shape) for p in spared["params"]] == [(3, 3), (3,)]  # type: ignore[attr-defined]
    assert decayed["params"] == [model.other.weight]
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.5)


def test_published_examples() -> None:
    expected = {0: 1e-6, 1: 1e-6, 2: 5.09e-5, 10: 4.501e-4, 11: 4.98633e-4, 300: 1.01368e-6}
    assert {epoch: published(epoch, 300) for epoch in expected} == pytest.approx(expected, rel=1e-5)


def test_cosine_starts_at_once_and_ends_near_the_minimum() -> None:
    def rate(epoch: int, warmup: int) -> float:
        return learning_rate(
            epoch, base=1.0, epochs=4, warmup_epochs=warmup, warmup_lr=0.1, min_lr=0.2, schedule="cosine"
        )

    assert epochs_run("cosine", 4) == 4
    assert [rate(epoch, 0) for epoch in range(5)] == pytest.approx(
        [1.0, 0.2 + 0.4 * (1 + 0.5**0.5), 0.6, 0.317157, 0.2], rel=1e-5
    )
    assert [rate(epoch, 2) for epoch in range(3)] == pytest.approx([0.1, 0.55, 0.6])
