"""Inference of merged models against the plain base, full-size Point-MAE: an exact merge costs nothing.

python tests/benchmarks/merged_model.py [ROUNDS]
"""

from __future__ import annotations

import copy
import sys

import torch
from pairs import compare

from geopeft_cli.adapters.merge import merge
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.methods import method_class
from geopeft_cli.tasks.classification import Classification


@torch.no_grad()
def main(rounds: int = 9) -> None:
    torch.manual_seed(0)
    clouds = torch.rand(8, 1024, 3) - 0.5
    base = PointMAE(groups=64)
    Classification([str(i) for i in range(15)]).attach(base)
    base.requires_grad_(False).eval()
    models = {"base": base}
    for name in ("lora", "monarch", "most"):
        adapted = copy.deepcopy(base)
        method_class(name)().attach(adapted)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.01)
        adapted.eval()
        merged = merge(adapted, "auto", [clouds])
        models |= {f"{name}, unmerged": adapted, f"{name}, merged by {merged.mode}": merged.model}
        if not adapted_is_exact(merged.mode):
            models[f"{name}, merged by drop-k"] = merge(adapted, "drop-k", [clouds]).model
    times = compare({name: (lambda model=model: model(clouds)) for name, model in models.items()}, rounds)
    print(f"8 clouds of 1024 points, {torch.get_num_threads()} threads, median of {rounds} rounds")
    for name, (seconds, ratio) in times.items():
        print(f"{name:26}{1000 * seconds:8.1f} ms{ratio:7.2f} x base")


def adapted_is_exact(mode: str) -> bool:
    """Whether a merge left nothing beside the weights."""
    return mode == "exact"


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
