"""``torch.export`` records every backbone from points to logits, for any batch and any number of points."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from contract.layouts import Serialized
from contract.subject import CLASSES, SHAPES, STAGES, TINY, clouds
from geopeft_cli.backbones import BACKBONES, backbone_class
from geopeft_cli.contracts import Backbone
from geopeft_cli.exporting.program import trace
from geopeft_cli.methods.most import MoST
from geopeft_cli.tasks.classification import Classification

# Steps of the sampling and blocks are unrolled, and every node takes its time.
SMALLEST: dict[str, Any] = {**TINY, "depth": 1, "groups": 6}
SMALLEST_STAGES: dict[str, Any] = {**SHAPES, "depths": [1, 1, 1], **STAGES, "groups": [6, 5, 5]}
LIKE_ANOTHER = {"act", "i2p_mae"}  # the network of another one, after another pre-training


def smallest(name: str) -> Backbone:
    """A backbone with MoST and fusion, every tensor random."""
    kind: type[Backbone] = Serialized if name == Serialized.name else backbone_class(name)
    takes = inspect.signature(kind).parameters
    sizes = SMALLEST | (SMALLEST_STAGES if "radius" in takes else {})
    torch.manual_seed(0)
    model = kind(**{key: value for key, value in sizes.items() if key in takes})
    MoST(blocks=4, targets=("attention_in",)).attach(model)
    Classification(CLASSES, fusion={"layers": 1, "affine": True}).attach(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("name", [*sorted(BACKBONES.keys() - LIKE_ANOTHER), Serialized.name])
def test_a_recorded_program_is_the_model(name: str) -> None:
    model = smallest(name)
    program = trace(model, clouds(2)[:, :32]).module()
    for given in (clouds(1), clouds(5)[:, :24]):
        expected = model(given)
        assert expected.std() > 1e-2
        torch.testing.assert_close(program(given), expected, atol=1e-5, rtol=0)
