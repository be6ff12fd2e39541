"""Time and memory of a training step of Point-PEFT on full-size Point-MAE, as ratios to full fine-tuning.

    python tests/benchmarks/point_peft_step.py [--rounds 7] [--batch 8] [--points 2048] [--groups 128] [--threads 2]

The settings are those published for ScanObjectNN, with a bank of 11,416 columns. Below it, what building the bank takes
for a cloud against evaluation with the head and without any method. See ``processes.py`` for how steps are held
against each other.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

from processes import Step, compare

SCAN: dict[str, Any] = {"prompts": 10, "prompted_blocks": 6}
PARTS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "point_peft": SCAN,
    "without bank": {**SCAN, "bank": False},
    "without adapter": {**SCAN, "adapter": False},
    "without prompts": {"prompt": False},
}
COLUMNS = 11_416
BUILDING = ("evaluation", "bank building")


def prepare(part: str, batch: int, points: int, groups: int) -> tuple[Step, int]:
    """A training step with a part of the method, and how many parameters train; or a pass without gradients."""
    import torch

    from geopeft_cli.backbones.point_mae import PointMAE
    from geopeft_cli.contracts import memories
    from geopeft_cli.methods.full import FullFineTuning
    from geopeft_cli.methods.point_peft import PointPEFT
    from geopeft_cli.tasks.classification import Classification
    from geopeft_cli.training.schedule import parameter_groups

    clouds, labels = torch.rand(batch, points, 3) - 0.5, torch.arange(batch) % 15
    model = PointMAE(groups=groups)
    model.requires_grad_(False)
    settings = PARTS.get(part, SCAN)
    if part != "evaluation":
        (FullFineTuning() if settings is None else PointPEFT(**settings)).attach(model)
    for memory in memories(model).values():
        memory.fill(torch.randn(COLUMNS, model.width), torch.zeros(COLUMNS))
    task = Classification([str(i) for i in range(15)])
    task.attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if part in BUILDING:
        asked = model.eval() if part == "evaluation" else next(iter(memories(model).values())).describe
        return torch.no_grad()(lambda: asked(clouds)), 0
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4)

    def step() -> None:
        task.loss(model(clouds), labels).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in trainable)


def warm_up(batch: int, points: int, groups: int) -> None:
    """Import and compile what is imported and compiled at first use, so that it does not count as the method's."""
    import torch

    from geopeft_cli.geometry.grouping import group

    group(torch.rand(batch, points, 3) - 0.5, groups, 32)
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.AdamW([parameter])
    (parameter @ parameter).sum().backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 7), ("batch", 8), ("points", 2048), ("groups", 128), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("batch", "points", "groups")}
    run = partial(compare, rounds=options.rounds, threads=options.threads)
    measured = run(options.parts, partial(prepare, **sizes), partial(warm_up, **sizes))
    full = measured[options.parts[0]]
    print(
        f"batch {options.batch} x {options.points}, {options.groups} groups, {options.threads} threads, "
        f"median of {options.rounds} rounds"
    )
    print(f"{'method':16}{'trainable':>12}{'ms/step':>9}{'ratio':>7}{'peak MB':>9}{'ratio':>7}")
    for part, result in measured.items():
        print(
            f"{part:16}{result.fact:12,}{1000 * statistics.median(result.seconds):9.0f}{result.ratio(full):7.2f}"
            f"{result.memory / 1e6:9.0f}{result.memory / full.memory:7.2f}"
        )
    passes = run(BUILDING, partial(prepare, **sizes), partial(warm_up, **sizes))
    for name, result in passes.items():
        time = 1000 * statistics.median(result.seconds) / options.batch
        print(f"{name:16}{time:8.1f} ms a cloud, {result.ratio(passes['evaluation']):.2f} of evaluation")


if __name__ == "__main__":
    main()
