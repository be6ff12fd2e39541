"""The paper's Point Monarch layer: a frozen linear layer with a Monarch update between two K-Rectify."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from geopeft_cli.contracts import Geometry, Level, published
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.methods.rectify import Rectify
from parity.golden_set import GoldenSet
from parity.subjects import Output
from parity.tensors import tensors_of_case

FILE = "io.safetensors"
SIDES = 2  # of the formula that the sets of this name were recorded with: K on both sides of M


@torch.no_grad()
def run(golden: GoldenSet) -> Iterator[Output]:
    (route,) = golden.routes()
    for case, values in golden.cases().items():
        weights = tensors_of_case(route.weights, case)
        x, centers = (torch.from_numpy(golden.input(f"{case}.{name}")) for name in ("x", "center"))
        slots = torch.arange(-values["bypass"], centers.shape[1]).clamp(min=-1)

        outputs, inputs = weights["base.weight"].shape
        base = nn.Linear(inputs, outputs, bias="base.bias" in weights)
        factors = MonarchFactors(inputs, outputs, values["nblocks"], bias="bias" in weights)
        base.load_state_dict(
            {name.removeprefix("base."): tensor for name, tensor in weights.items() if name.startswith("base.")}
        )
        factors.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("base.")})
        rectify = Rectify(values["k"], values["eps"], values["lam"], SIDES)
        layer = MonarchUpdate(base, factors, rectify, level=0, site=case, dropout=0.0).eval()

        with published(Geometry([Level(centers, slots)])):
            for y in (layer(x), *(layer.folded(mode)(x) for mode in layer.exact_modes)):
                yield from _first_tokens(golden, f"{case}.y", y)
                yield Output(FILE, f"{case}.y.mean", y.mean(dim=1))
        merged = layer.folded("exact" if rectify.is_identity else "drop-k")
        yield from _first_tokens(golden, f"{case}.merged_K_identity", merged(x))


def _first_tokens(golden: GoldenSet, name: str, y: torch.Tensor) -> Iterator[Output]:
    """As many tokens from the start of the sequence as were recorded."""
    if name in golden.stored[FILE]:
        yield Output(FILE, name, y[:, : golden.stored[FILE][name].shape[1]])
