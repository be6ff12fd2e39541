"""The ablation of Point-PEFT on a small checkpoint: its parts alone and together, beside LoRA and MoST.

    python tests/benchmarks/point_peft_ablation.py run shrec07_2048.npz --output runs/point_peft [--seeds 0 1 2]
    python tests/benchmarks/point_peft_ablation.py rates shrec07_2048.npz --output runs/point_peft_rates
    python tests/benchmarks/point_peft_ablation.py table runs/point_peft

Every run is what ``geopeft finetune`` does with the overrides that stand in :data:`ROWS` and in the sets of
``most_ablation.py``, at the rate given with ``--lr``, and leaves the same folder. ``rates`` measures learning rates on
clouds held out of the training split, with seeds of their own. Runs that are there already are kept, so several
processes may share the work by ``--seeds`` or ``--sets``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from most_ablation import HELD_OUT, RATES, SETS, SLUG, accuracies, finished, train

BASELINE = "both parts"
ROWS: dict[str, str] = {
    "both parts": "{name: point_peft}",
    "both parts, without bank": "{name: point_peft, bank: false}",
    "prompts alone": "{name: point_peft, adapter: false}",
    "prompts alone, without bank": "{name: point_peft, adapter: false, bank: false}",
    "adapter alone": "{name: point_peft, prompt: false}",
    "adapter alone, silent at the start": "{name: point_peft, prompt: false, init: identity}",
    "biases alone": "{name: point_peft, prompt: false, adapter: false}",
    "both parts, aligned": "{name: point_peft, variant: aligned}",
    "both parts, 5 columns a class": "{name: point_peft, bank_per_class: 5}",
    "both parts, bank in half precision": "{name: point_peft, bank_precision: fp16}",
    "LoRA, rank 8": "{name: lora}",
    "MoST": "{name: most}",
}


def overrides(of_set: str, row: str, seed: int, data: str, rate: str) -> tuple[str, list[str]]:
    """Recipe and overrides of a run: what a user gives ``geopeft finetune``."""
    recipe, *of_data = SETS[of_set]
    given = [value.format(data=data) if "{data}" in value else value for value in of_data]
    return recipe, [*given, f"training.lr={rate}", f"method={ROWS[row]}", f"seed={seed}"]


def run(options: argparse.Namespace) -> None:
    for of_set in options.sets:
        for seed in options.seeds:
            for row in options.rows:
                folder = options.output / of_set / row.translate(SLUG) / str(seed)
                train(folder, *overrides(of_set, row, seed, options.data, options.lr))


def rates(options: argparse.Namespace) -> None:
    for of_set in options.sets:
        for row in options.rows:
            print(of_set, row, end=": ", flush=True)
            for rate in RATES:
                folder = options.output / of_set / row.translate(SLUG) / rate
                for seed in options.seeds:
                    recipe, values = overrides(of_set, row, seed, options.data, rate)
                    train(folder / str(seed), recipe, [*values, *HELD_OUT[of_set]])
                print(f"{rate} {statistics.mean(accuracies(folder, 'validation').values()):.1f}", end="  ", flush=True)
            print()


def table(options: argparse.Namespace) -> None:
    for of_set in SETS:
        baseline = accuracies(options.output / of_set / BASELINE.translate(SLUG))
        print(f"\n{of_set}, {len(baseline)} seeds\n")
        print(f"| setting | accuracy (%) | difference to {BASELINE}, paired by seed | trainable parameters | adapter |")
        print("|---|---|---|---|---|")
        for row in ROWS:
            folder = options.output / of_set / row.translate(SLUG)
            found = accuracies(folder)
            if len(found) < 2:
                continue
            differences = [found[seed] - baseline[seed] for seed in found if seed in baseline]
            spread = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
            last = next(iter(finished(folder).values()))
            print(
                f"| {row} | {statistics.mean(found.values()):.1f} ± {statistics.stdev(found.values()):.1f} "
                f"| {statistics.mean(differences):+.1f} ± {spread:.1f} | {last['trainable_parameters']:,} "
                f"| {last['adapter_bytes'] / 1e6:.2f} MB |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, function, seeds, rows in (
        ("run", run, [0, 1, 2], list(ROWS)),
        ("rates", rates, [100, 101], [BASELINE]),
    ):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("data", help="the packed file of SHREC'07")
        verb.add_argument("--output", type=Path, default=Path("runs/point_peft"))
        verb.add_argument("--lr", default="3e-3")
        verb.add_argument("--seeds", type=int, nargs="+", default=seeds)
        verb.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
        verb.add_argument("--rows", nargs="+", choices=list(ROWS), default=rows)
    verb = verbs.add_parser("table")
    verb.set_defaults(function=table)
    verb.add_argument("output", type=Path)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
