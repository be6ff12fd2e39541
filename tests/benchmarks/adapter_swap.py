"""Changing the adapter of a full-size Point-MAE in memory, against loading it again with its base.

python tests/benchmarks/adapter_swap.py [ROUNDS]

Adapters have random values; the base is a file of random weights, read anew in every load (from the cache of the
system). Memory is what the parameters of the models hold together, tensors that they share counted once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import geopeft_cli
from geopeft_cli.adapters.directory import adapter_state
from geopeft_cli.assemble import build
from geopeft_cli.assets.pretrain_point_mae_tiny import save
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.recipe.load import parse_recipe
from geopeft_cli.verbs.saving import write_made
from geopeft_cli.verbs.trained import TrainedModel

CLASSES = tuple(f"class {i}" for i in range(15))


def write_adapter(folder: Path, base: Path, method: str, seed: int) -> Path:
    """An adapter with random values in all that trains."""
    recipe = parse_recipe(
        f"{{name: a, data: {{format: shapes}}, backbone: {{checkpoint: {base}}}, method: {{name: {method}}}}}", "recipe"
    )
    experiment = build(recipe, CLASSES)
    torch.manual_seed(seed)
    for parameter in experiment.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.01)
    manifest = experiment.record(selection={"text": "not trained"})
    folder.mkdir()
    write_made(folder, experiment, adapter_state(experiment.model, experiment.fresh), manifest)
    return folder


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def megabytes(models: Iterable[TrainedModel]) -> float:
    held = {}
    for model in models:
        for parameter in model._opened.model.parameters():
            held[parameter.data_ptr()] = parameter.numel() * parameter.element_size()
    return sum(held.values()) / 1e6


def main(rounds: int = 9) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base.safetensors"
        save(PointMAE(), base)
        lora, other = (write_adapter(folder / f"lora_{seed}", base, "lora", seed) for seed in (1, 2))
        most = write_adapter(folder / "most", base, "most", 3)
        model = geopeft_cli.load(lora).swap(most)
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            actions = {
                "load, with the base": lambda: geopeft_cli.load(other),
                "with_adapter, another method": lambda: model.with_adapter(most),
                "swap, the same method": lambda: model.swap(other),
                "swap, a method that it had": lambda: model.swap(most) and model.swap(lora),
            }
            for what, action in actions.items():
                swaps = 2 if "had" in what else 1
                times.setdefault(what, []).append(seconds(action) / swaps)
        print(f"Point-MAE, {torch.get_num_threads()} threads, median of {rounds} rounds")
        first = statistics.median(times["load, with the base"])
        for what, found in times.items():
            middle = statistics.median(found)
            print(f"{what:30}{1000 * middle:8.1f} ms{first / middle:8.1f} x faster than loading")
        models = [geopeft_cli.load(lora)]
        print(f"1 model {megabytes(models):26.1f} MB")
        models += [models[0].with_adapter(path) for path in (most, other, lora)]
        print(f"4 models on one base {megabytes(models):13.1f} MB")
        print(f"4 models loaded {sum(megabytes([one]) for one in models):18.1f} MB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
