"""Rates and groups of the optimizer; the tables of the released codes are golden sets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from geopeft_cli.contracts import Wrapper, official_name
from geopeft_cli.errors import UsageError
from geopeft_cli.training.schedule import OneCycle, OwnGroup, decays, epochs_run, learning_rate, parameter_groups


def published(epoch: int, epochs: int, base: float = 5e-4) -> float:
    return learning_rate(
        epoch, base=base, epochs=epochs, warmup_epochs=10, warmup_lr=1e-6, min_lr=1e-6, schedule="cosine_lag"
    )


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
    assert [tuple(p.shape) for p in spared["params"]] == [(3, 3), (3,)]
    assert decayed["params"] == [model.other.weight]
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.5)


def small_model() -> nn.ModuleDict:
    return nn.ModuleDict({"head": nn.Linear(3, 2), "body": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})


def test_own_groups_come_first_and_the_first_that_fits_takes_a_name() -> None:
    model = small_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = [OwnGroup("head.*", 10.0, 0.1), OwnGroup("*.weight", 0.5)]
    found = [
        ([names[id(p)] for p in group["params"]], group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(model, 0.05, own)
    ]
    assert found == [
        (["head.weight", "head.bias"], 10.0, 0.1),  # decays as a whole
        (["norm.weight"], 0.5, 0.0),
        (["body.weight"], 0.5, 0.05),
        (["body.bias", "norm.bias"], 1.0, 0.0),
        ([], 1.0, 0.05),
    ]


@pytest.mark.parametrize("matches", [["heads.*"], ["*", "head.*"], ["body.*"]])
def test_a_group_without_parameters_is_refused(matches: list[str]) -> None:
    model = small_model()
    model["body"].requires_grad_(False)
    with pytest.raises(
        UsageError, match=rf"training.groups\[{len(matches) - 1}\].match: .* fits no trainable"
    ) as refused:
        parameter_groups(model, 0.05, [OwnGroup(match) for match in matches])
    assert refused.value.hint == f"Trainable and in no group before: {'nothing' if '*' in matches else 'head, norm'}."


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


@pytest.mark.parametrize(("steps", "warmup"), [(200, 0.05), (40, 0.04), (7, 0.3), (3, 0.05)])
def test_one_cycle_is_that_of_torch(steps: int, warmup: float) -> None:
    optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0}])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=steps, pct_start=warmup, div_factor=10, final_div_factor=1000
    )
    for step in range(steps):
        factor, beta1 = OneCycle(warmup).at(step, steps)
        [group] = optimizer.param_groups
        assert 2e-3 * factor == pytest.approx(group["lr"], rel=1e-9)
        assert beta1 == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
