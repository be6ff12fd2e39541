"""The maximum over groups against the groups written out."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.methods import group_maximum as module
from geopeft_cli.methods.group_maximum import group_maximum


@pytest.mark.parametrize("at_once", [1, 64, 2**18])
def test_value_and_gradients(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    rows, mixed, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((11, 6), (7, 4, 3), (6, 3))
    )
    members = torch.randint(11, (7, 4), generator=generator)
    found = group_maximum(rows, members, mixed, weight)
    dense = (rows[members] + mixed @ weight.t()).max(dim=1).values
    torch.testing.assert_close(found, dense)
    upstream = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(found, (rows, mixed, weight), upstream)
    for own, other in zip(gradients, torch.autograd.grad(dense, (rows, mixed, weight), upstream), strict=True):
        torch.testing.assert_close(own, other)


def test_of_equal_members_one_gets_the_gradient() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    mixed, weight = torch.zeros(1, 4, 1), torch.zeros(2, 1)
    group_maximum(rows, torch.tensor([[0, 1, 1, 2]]), mixed, weight).sum().backward()
    assert rows.grad is not None
    assert rows.grad.sum() == 2
    assert set(rows.grad.unique().tolist()) <= {0.0, 1.0}
