"""How fast batches get ready, against how fast a training step uses them up.

    python tests/benchmarks/data_path.py [--rounds 3] [--batch 32] [--step-batch 32] [--threads 1]

Batches of 2048 points by ``sampling: fps_random`` and ``augment: [scale_translate]``, from clouds in memory and from
the embedded shapes, whose first pass makes the clouds and whose later ones take them from the cache. The step is one of
full-size Point-MAE with MoST on 128 groups; with a smaller ``--step-batch`` its time is scaled up to ``--batch``. The
contestants take turns in one process, and its processor time is taken, which other programs do not change much.

Then both run together, as in training: how long the loop waits for a batch, and how many batches are ahead of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from training_step import warm_up

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.data.batches import CACHE_BYTES, Batches
from geopeft_cli.data.clouds import Cloud, CloudSet, MemoryClouds, Subset
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.shapes import CLASSES, Shapes
from geopeft_cli.methods import method_class
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.schedule import parameter_groups

POINTS, GROUPS = 2048, 128
Step = Callable[[torch.Tensor], None]


class Counted(Subset):
    """The first clouds of a set, which count how often one of them is asked for."""

    def __init__(self, clouds: CloudSet, count: int) -> None:
        super().__init__(clouds, range(count))
        self.asked = 0

    def __getitem__(self, index: int) -> Cloud:
        self.asked += 1
        return super().__getitem__(index)


def in_memory(count: int, size: int) -> Counted:
    points = np.random.default_rng(0).normal(size=(count, size, 3)).astype(np.float32)
    return Counted(
        MemoryClouds(points / np.linalg.norm(points, axis=2, keepdims=True), [0] * count, ("sphere",)), count
    )


def shapes(count: int, domain: str) -> Counted:
    return Counted(Shapes(domain, "train", -(-count // len(CLASSES)), 0, POINTS), count)


def batches_of(clouds: CloudSet, batch: int) -> Batches:
    return Batches(
        clouds,
        Preparation(POINTS, sampling="fps_random"),
        batch_size=batch,
        seed=0,
        augment=("scale_translate",),
        training=True,
        purpose="train",
    )


def training_step(batch: int) -> Step:
    model = PointMAE(groups=GROUPS).requires_grad_(False)
    method_class("most")().attach(model)
    task = Classification([str(i) for i in range(15)])
    task.attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, labels = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4), torch.arange(batch) % 15

    def step(points: torch.Tensor) -> None:
        task.loss(model(points), labels).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def alone(step: Step, batch: int, step_batch: int, rounds: int) -> None:
    """Every contestant by itself, turn by turn; a pass over a set is one batch."""
    points = torch.rand(step_batch, POINTS, 3) - 0.5
    kept = {
        "in memory, 8192 points": batches_of(in_memory(batch, 8192), batch),
        "in memory, 10000 points": batches_of(in_memory(batch, 10000), batch),
        "shapes, later passes": batches_of(shapes(batch, "scan"), batch),
    }

    def pass_over(name: str, number: int) -> None:
        list((kept.get(name) or batches_of(shapes(batch, name.split()[1]), batch)).epoch(number))

    names = [*kept, "shapes, clean first pass", "shapes, scan first pass"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    steps: list[float] = []
    for number in range(rounds + 1):
        for name in names:
            started = time.process_time()
            pass_over(name, number)
            seconds[name].append(time.process_time() - started)
        started = time.process_time()
        step(points)
        steps.append((time.process_time() - started) * batch / step_batch)
    # the first round warms up, and makes what is kept
    print(f"step, {batch // step_batch} x that of {step_batch} clouds: {statistics.median(steps[1:]):.2f} s")
    print(f"{'batches from':28}{'s':>7}{'batches a step':>16}")
    for name, values in seconds.items():
        ratio = statistics.median(own / value for own, value in zip(steps[1:], values[1:], strict=True))
        print(f"{name:28}{statistics.median(values[1:]):7.3f}{ratio:16.1f}")


def together(step: Step, batch: int, rounds: int) -> None:
    """A loop as in training, over clouds that it has not seen before."""
    clouds = in_memory((rounds + 2) * batch, 8192)
    waits: list[float] = []
    ahead, started = 0, time.perf_counter()
    for number, each in enumerate(batches_of(clouds, batch).epoch(0), start=1):
        waits.append(time.perf_counter() - started)
        step(each.points)
        ahead = max(ahead, clouds.asked // batch - number)
        held = sum(tensor.nbytes for tensor in (each.points, each.picks, each.labels, each.indices))
        started = time.perf_counter()
    first, longest = waits[0], 1000 * max(waits[1:])
    print(f"in a loop with batches of {batch}: the first after {first:.2f} s, others after at most {longest:.1f} ms;")
    print(f"{ahead} ahead, {held / 1e6:.2f} MB each; clouds kept between passes: at most {CACHE_BYTES / 1e9:g} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 3), ("batch", 32), ("step-batch", 32), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warm_up(options.step_batch, POINTS)
    step = training_step(options.step_batch)
    print(f"{options.batch} clouds of {POINTS} points, {options.threads} threads, median of {options.rounds} rounds")
    alone(step, options.batch, options.step_batch, options.rounds)
    together(step, options.step_batch, options.rounds)


if __name__ == "__main__":
    main()
