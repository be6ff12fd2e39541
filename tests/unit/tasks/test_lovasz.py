"""The Lovász-softmax loss, whose value is held against the released code elsewhere."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.tasks.lovasz import lovasz_softmax


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_mixed_precision_does_not_round_the_loss(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(500, 4, generator=generator).softmax(dim=1)
    labels = torch.randint(4, (500,), generator=generator)
    with torch.autocast("cpu", kind):
        mixed = lovasz_softmax(probabilities, labels)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, lovasz_softmax(probabilities, labels))
