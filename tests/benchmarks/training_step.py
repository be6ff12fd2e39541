"""Time and memory of one training step on full-size Point-MAE, by method, as ratios to full fine-tuning.

    python tests/benchmarks/training_step.py [--rounds 7] [--batch 8] [--points 1024] [--threads 2]

See ``processes.py`` for how the methods are held against each other.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

from processes import Step, compare

METHODS = ("full", "linear_probe", "bitfit", "lora", "monarch", "most")


def prepare(method: str, batch: int, points: int) -> tuple[Step, int]:
    """A training step of a method, and how many parameters train."""
    import torch

    from geopeft_cli.backbones.point_mae import PointMAE
    from geopeft_cli.methods import method_class
    from geopeft_cli.tasks.classification import Classification
    from geopeft_cli.training.schedule import parameter_groups

    clouds, labels = torch.rand(batch, points, 3) - 0.5, torch.arange(batch) % 15
    model = PointMAE(groups=64)
    model.requires_grad_(False)
    method_class(method)().attach(model)
    task = Classification([str(i) for i in range(15)])
    task.attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4)

    def step() -> None:
        task.loss(model(clouds), labels).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in trainable)


def warm_up(batch: int, points: int) -> None:
    """Import and compile what is imported and compiled at first use, so that it does not count as the method's."""
    import torch

    from geopeft_cli.geometry.grouping import group

    group(torch.rand(batch, points, 3) - 0.5, 64, 32)
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.AdamW([parameter])
    (parameter @ parameter).sum().backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 7), ("batch", 8), ("points", 1024), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    sizes = {"batch": options.batch, "points": options.points}
    measured = compare(
        METHODS, partial(prepare, **sizes), partial(warm_up, **sizes), rounds=options.rounds, threads=options.threads
    )
    full = measured["full"]
    print(f"batch {options.batch} x {options.points}, {options.threads} threads, median of {options.rounds} rounds")
    print(f"{'method':14}{'trainable':>12}{'ms/step':>9}{'ratio':>7}{'peak MB':>9}{'ratio':>7}")
    for method, result in measured.items():
        print(
            f"{method:14}{result.fact:12,}{1000 * statistics.median(result.seconds):9.0f}{result.ratio(full):7.2f}"
            f"{result.memory / 1e6:9.0f}{result.memory / full.memory:7.2f}"
        )


if __name__ == "__main__":
    main()
