"""Time and memory of one training step on full-size Point-MAE, by method, as ratios to full fine-tuning.

    python tests/benchmarks/training_step.py [--rounds 7] [--batch 8] [--points 1024] [--threads 2]

Every method lives in a process of its own, so that its peak memory is its own. The processes take their steps in
turn, round after round, and the ratios are formed within a round: a machine that slows down slows all of them.
Memory is the growth of the resident peak over that of the imported libraries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("full", "linear_probe", "bitfit", "lora", "monarch", "most")


def worker(method: str, batch: int, points: int, threads: int, pipe: Connection) -> None:
    """Take a step whenever asked to and answer with its seconds; at the end, with peak memory and parameters."""
    import torch

    from geopeft_cli.backbones.point_mae import PointMAE
    from geopeft_cli.methods import method_class
    from geopeft_cli.tasks.classification import Classification
    from geopeft_cli.training.schedule import parameter_groups

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clouds, labels = torch.rand(batch, points, 3) - 0.5, torch.arange(batch) % 15
    load_libraries(clouds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = PointMAE(groups=64)
    model.requires_grad_(False)
    method_class(method)().attach(model)
    task = Classification([str(i) for i in range(15)])
    task.attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4)
    while pipe.recv():
        started = time.perf_counter()
        loss = task.loss(model(clouds), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 10.0)
        optimizer.step()
        optimizer.zero_grad()
        pipe.send(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    pipe.send((peak * 1024, sum(p.numel() for p in model.parameters() if p.requires_grad)))


def load_libraries(clouds: Tensor) -> None:
    """Import and compile what is imported and compiled at first use, so that it does not count as the method's."""
    import torch

    from geopeft_cli.geometry.grouping import group

    group(clouds, 64, 32)
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.AdamW([parameter])
    (parameter @ parameter).sum().backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 7), ("batch", 8), ("points", 1024), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for method in METHODS:
        pipes[method], theirs = context.Pipe()
        arguments = (method, options.batch, options.points, options.threads, theirs)
        context.Process(target=worker, args=arguments, daemon=True).start()
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for round_ in range(options.rounds + 2):
        for method, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if round_ >= 2:  # the first two warm up
                seconds[method].append(taken)
    facts = {}
    for method, pipe in pipes.items():
        pipe.send(False)
        facts[method] = pipe.recv()
    print(f"batch {options.batch} x {options.points}, {options.threads} threads, median of {options.rounds} rounds")
    print(f"{'method':14}{'trainable':>12}{'ms/step':>9}{'ratio':>7}{'peak MB':>9}{'ratio':>7}")
    for method in METHODS:
        ratio = statistics.median(a / b for a, b in zip(seconds[method], seconds["full"], strict=True))
        memory, parameters = facts[method]
        print(
            f"{method:14}{parameters:12,}{1000 * statistics.median(seconds[method]):9.0f}{ratio:7.2f}"
            f"{memory / 1e6:9.0f}{memory / facts['full'][0]:7.2f}"
        )


if __name__ == "__main__":
    main()
