"""Every exact merge mode, on every set of target layers and every structure of the factors, in one table.

python -m pytest -n 0 -s tests/contract/test_merge_exactness.py
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from contract.subject import Subject, clouds, logits, tiny_backbone
from geopeft_cli.adapters.merge import exact_modes, foldable_layers, merge
from geopeft_cli.methods.dense import dense_layer, sizes

TOLERANCE = 1e-5
CLOUDS = [clouds(6, seed=3)]
TARGETS = {
    "attention_in": ["attention_in"],
    "attention_out": ["attention_out"],
    "mlp_in": ["mlp_in"],
    "mlp_out": ["mlp_out"],
    "attention_in, mlp_in": ["attention_in", "mlp_in"],
    "all": ["all"],
}
BY_NAME, WITHOUT_CENTERS = "end of a name", "layers without centers"
FACTORS: dict[str, dict[str, Any]] = {
    "dense": {"type": "dense"},
    "low_rank: 2": {"type": "low_rank", "rank": 2},
    "kronecker": {"type": "kronecker"},
    "kronecker: [2, 4]": {"type": "kronecker", "sizes": [2, 4]},
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "monarch": {"blocks": 4},
    "monarch, 5 blocks": {"blocks": 5},
    "most, lam 0.5": {"blocks": 4, "lam": 0.5},
    "most, lam 1, one side": {"blocks": 4, "lam": 1.0, "sides": 1},
}


def combinations() -> list[tuple[str, str, str]]:
    """Method, targets and factor, without those that do not exist."""
    found = []
    for method, targets, factor in product(METHODS, [*TARGETS, BY_NAME, WITHOUT_CENTERS], FACTORS):
        if method == "lora" and factor != "dense":
            continue
        if method.startswith("most") and targets == WITHOUT_CENTERS:
            continue
        if factor == "kronecker: [2, 4]" and (method == "monarch, 5 blocks" or targets == WITHOUT_CENTERS):
            continue  # 2 and 4 divide the blocks of the transformer's layers only
        found.append((method, targets, factor))
    return found


def end_of_a_name(backbone: str) -> str:
    """That which the names of all layers behind an attention have in common, such as ``attn.proj``."""
    sites = [site for site in tiny_backbone(backbone).sites() if site.role == "attention_out"]
    return ".".join(sites[-1].name.split(".")[-2:])


def layers_without_centers(backbone: str) -> list[str]:
    """Names of the layers outside the sequence of tokens that take a few blocks."""
    sites = [site for site in tiny_backbone(backbone).sites() if site.level is None]
    return [site.name for site in sites if min(sizes(dense_layer(site))) >= 5]


def test_every_exact_mode_on_every_target_and_factor(checkpoint: tuple[str, Any]) -> None:
    print(f"\n{checkpoint[0]}\n| method | targets | factor | mode | layers | largest difference / rms of the logits |")
    print("|---|---|---|---|---|---|")
    targets_of = TARGETS | {
        BY_NAME: [end_of_a_name(checkpoint[0])],
        WITHOUT_CENTERS: layers_without_centers(checkpoint[0]),
    }
    for name, targets, factor in combinations():
        method = name.partition(",")[0]
        settings = {**METHODS[name], "targets": targets_of[targets]}
        if method != "lora":
            settings |= {"factor": FACTORS[factor]}
        experiment = Subject(checkpoint[0], method, checkpoint[1], {}, settings).perturbed()
        unmerged = logits(experiment.model, CLOUDS[0])
        layers = foldable_layers(experiment.model)
        for mode in sorted(exact_modes(layers.values())):
            merged = merge(experiment.model, mode, CLOUDS).model
            difference = (logits(merged, CLOUDS[0]) - unmerged).abs().max() / unmerged.square().mean().sqrt()
            print(f"| {name} | {targets} | {factor} | {mode} | {len(layers)} | {float(difference):.1e} |")
            assert float(difference) <= TOLERANCE, (name, targets, factor, mode)
        with torch.no_grad():  # the updates are no trifle
            for layer in layers.values():
                assert float(layer.dense_update("exact").weight.norm()) > 0.01
