"""Parameters that every method trains on every backbone, against its formula over the shapes of the frozen network."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from contract.subject import Subject, tiny_backbone, trainable
from geopeft_cli.contracts import Backbone, select_sites
from geopeft_cli.methods.dense import dense_layer, sizes
from geopeft_cli.recipe.schema import WITHOUT_ATTENTION

Settings = dict[str, Any]


def of_all(backbone: Backbone, settings: Settings) -> int:
    return sum(parameter.numel() for parameter in backbone.parameters())


def of_none(backbone: Backbone, settings: Settings) -> int:
    return 0


def of_biases(backbone: Backbone, settings: Settings) -> int:
    return sum(parameter.numel() for name, parameter in backbone.named_parameters() if name.endswith(".bias"))


def of_low_rank(backbone: Backbone, settings: Settings) -> int:
    return sum(settings["rank"] * (inputs + outputs) for inputs, outputs in targeted(backbone, settings))


def of_blocks(backbone: Backbone, settings: Settings) -> int:
    """b q (p + s) a layer, with p = ceil(in / b), s = ceil(out / b) and q the smaller of the two."""
    blocks = settings["blocks"]
    per_block = ((ceil(inputs / blocks), ceil(outputs / blocks)) for inputs, outputs in targeted(backbone, settings))
    return sum(blocks * min(p, s) * (p + s) for p, s in per_block)


def of_bottlenecks(backbone: Backbone, settings: Settings) -> int:
    """r C and r, then C r and C, behind every attention and every feed-forward layer."""
    rank, roles = settings["rank"], {"targets": ("attention_out", "mlp_out")}
    return sum(2 * rank * width + rank + width for _, width in targeted(backbone, roles))


def of_prefixes(backbone: Backbone, settings: Settings) -> int:
    """As many keys as values in every attention, as wide as what leaves it."""
    return sum(2 * settings["length"] * width for _, width in targeted(backbone, {"targets": ("attention_out",)}))


def targeted(backbone: Backbone, settings: Settings) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers that the targets name."""
    return [sizes(dense_layer(site)) for site in select_sites(backbone, settings["targets"])]


FORMULAS: dict[str, Callable[[Backbone, Settings], int]] = {
    "full": of_all,
    "linear_probe": of_none,
    "bitfit": of_biases,
    "lora": of_low_rank,
    "adapter": of_bottlenecks,
    "prompt": of_prefixes,
    "monarch": of_blocks,
    "most": of_blocks,
}


@pytest.mark.parametrize("method", FORMULAS)
def test_count_is_that_of_the_formula(checkpoint: tuple[str, Path], method: str) -> None:
    name, file = checkpoint
    if method == "prompt" and name in WITHOUT_ATTENTION:
        pytest.skip(f"{name} has no attention")
    experiment = Subject(name, method, file, {}).moved()
    model, formula = experiment.model, FORMULAS[method]
    found = 0
    for key, parameter in trainable(model).items():
        # tokens train beside the method's own parameters, among which some of them may be
        own = key not in model.token_names or formula is of_all or (formula is of_biases and key.endswith(".bias"))
        found += parameter.numel() if own and not key.startswith("cls_head_finetune") else 0
    assert found == formula(tiny_backbone(name), experiment.method.settings())
