"""The ablation of MoST on a small checkpoint: accuracies of many settings over several seeds, as a Markdown table.

    python tests/benchmarks/most_ablation.py run shrec07_2048.npz --output runs/ablation [--seeds 0 1 2 3 4]
    python tests/benchmarks/most_ablation.py rates shrec07_2048.npz --output runs/rates
    python tests/benchmarks/most_ablation.py merge runs/ablation
    python tests/benchmarks/most_ablation.py table runs/ablation

Every run is what ``geopeft finetune`` does with the overrides that stand in :data:`ROWS` and :data:`SETS`, and leaves
the same folder. Only the frozen patch encoder is computed once a batch instead of once a run: all runs of one seed see
the same clouds. ``rates`` measures learning rates on clouds held out of the training split, with seeds of their own.
Runs that are there already are kept, so several processes may share the work by ``--seeds`` or ``--sets``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

RATE = "training.lr=3e-3"
ROWS: dict[str, tuple[str, ...]] = {
    "linear probe": ("method={name: linear_probe}",),
    "LoRA, rank 8": ("method={name: lora}",),
    "Monarch": ("method={name: monarch}",),
    "K on one side": ("method.sides=1",),
    "MoST": (),
    "lam 0.1": ("method.lam=0.1",),
    "lam 0.25": ("method.lam=0.25",),
    "lam 1": ("method.lam=1.0",),
    "k 8": ("method.neighbors=8",),
    "k 16": ("method.neighbors=16",),
    "b 16": ("method.blocks=16",),
    "b 32": ("method.blocks=32",),
    "lam to 0 over the whole run": ("method.lam_schedule={to: 0.0}",),
    "lam to 0 by epoch 30 of 40": ("method.lam_schedule={to: 0.0, until_epoch: 30}",),
    "low-rank factors, r 4": ("method.factor={type: low_rank, rank: 4}",),
    "Kronecker factors": ("method.factor={type: kronecker}",),
    "MoST, fusion": ("task.fusion.layers=3",),
    "LoRA, fusion": ("method={name: lora}", "task.fusion.layers=3"),
}
SETS = {
    "shrec07": ("classification/shrec07/point_mae_tiny_most", "data.path={data}"),
    "shapes": (
        "quickstart",
        "data.train_per_class=20",
        "data.validation_per_class=0",
        "data.test_per_class=40",
        "training.epochs=40",
        "training.warmup_epochs=4",
    ),
}
HELD_OUT = {
    "shrec07": ("data.split={by: field, field: is_test, validation: 0.2}",),
    "shapes": ("data.validation_per_class=20",),
}
RATES = ("3e-3", "1e-2", "3e-2")
SLUG = str.maketrans({" ": "_", ",": None, ":": None})


def remember_patches() -> Callable[[], None]:
    """Compute grouping and frozen patch encoder once for each batch of points; the result forgets all of them."""
    import hashlib

    from geopeft_cli.backbones import point_mae
    from geopeft_cli.backbones.patch_encoder import PatchEncoder

    groups: dict[bytes, Any] = {}
    patches: dict[int, Any] = {}
    group, encode = point_mae.group, PatchEncoder.forward

    def remembered_group(points: Any, *sizes: Any) -> Any:
        key = hashlib.sha1(points.numpy().tobytes()).digest()
        if key not in groups:
            groups[key] = group(points, *sizes)
        return groups[key]

    def remembered_encode(self: PatchEncoder, neighborhoods: Any) -> Any:
        if id(neighborhoods) not in patches:
            patches[id(neighborhoods)] = encode(self, neighborhoods)
        return patches[id(neighborhoods)]

    point_mae.group = remembered_group  # type: ignore[assignment]
    PatchEncoder.forward = remembered_encode  # type: ignore[method-assign]

    def forget() -> None:
        groups.clear()
        patches.clear()

    return forget


def overrides(of_set: str, row: str, seed: int, data: str) -> tuple[str, list[str]]:
    """Recipe and overrides of a run: what a user gives ``geopeft finetune``."""
    recipe, *of_data = SETS[of_set]
    given = [value.format(data=data) if "{data}" in value else value for value in of_data]
    return recipe, [*given, RATE, *ROWS[row], f"seed={seed}"]


def train(folder: Path, recipe: str, values: list[str]) -> None:
    from geopeft_cli.verbs.finetune import finetune

    if not (folder / "adapter").is_dir():
        finetune(recipe, [*values, "training.threads=1"], folder, resume=folder.is_dir())


def run(options: argparse.Namespace) -> None:
    forget = remember_patches()
    for of_set in options.sets:
        for seed in options.seeds:
            for row in options.rows:
                folder = options.output / of_set / row.translate(SLUG) / str(seed)
                train(folder, *overrides(of_set, row, seed, options.data))
            forget()


def rates(options: argparse.Namespace) -> None:
    forget = remember_patches()
    for of_set in options.sets:
        for seed in options.seeds:
            for row in options.rows:
                for rate in RATES:
                    recipe, values = overrides(of_set, row, seed, options.data)
                    folder = options.output / of_set / row.translate(SLUG) / rate / str(seed)
                    train(folder, recipe, [*values, *HELD_OUT[of_set], f"training.lr={rate}"])
            forget()
    for of_set in options.sets:
        for row in options.rows:
            print(of_set, row, end=": ")
            for rate in RATES:
                found = accuracies(options.output / of_set / row.translate(SLUG) / rate, "validation")
                print(f"{rate} {statistics.mean(found.values()):.1f}", end="  ")
            print()


def finished(folder: Path) -> dict[int, dict[str, Any]]:
    """The last record by seed, of the finished runs below a folder."""
    found = {}
    for path in sorted(folder.glob("*/metrics.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1]) if lines else {}
        if last.get("finished"):
            found[int(path.parent.name)] = last
    return found


def accuracies(folder: Path, part: str = "test") -> dict[int, float]:
    """Accuracy in percent by seed."""
    return {seed: last[part]["accuracy"] for seed, last in finished(folder).items()}


def table(options: argparse.Namespace) -> None:
    for of_set in SETS:
        baseline = accuracies(options.output / of_set / "MoST")
        print(f"\n{of_set}, {len(baseline)} seeds\n")
        print("| setting | accuracy (%) | difference to MoST, paired by seed | trainable parameters |")
        print("|---|---|---|---|")
        for row in ROWS:
            folder = options.output / of_set / row.translate(SLUG)
            found = accuracies(folder)
            if len(found) < 2:
                continue
            differences = [found[seed] - baseline[seed] for seed in found if seed in baseline]
            spread = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
            size = next(iter(finished(folder).values()))["trainable_parameters"]
            print(
                f"| {row} | {statistics.mean(found.values()):.1f} ± {statistics.stdev(found.values()):.1f} "
                f"| {statistics.mean(differences):+.1f} ± {spread:.1f} | {size:,} |"
            )


MODES = ("drop-k", "dc", "calibrated-scalar", "calibrated-matrix")


def merge(options: argparse.Namespace) -> None:
    """Accuracy after every merge mode that leaves no overhead, for the runs that keep K to the end."""
    import tempfile

    from geopeft_cli.verbs.merge import merge_trained

    print("| set | mode | accuracy before | after | difference by seed | mean error of a layer |")
    print("|---|---|---|---|---|---|")
    for of_set in SETS:
        runs = sorted((options.output / of_set / "MoST").glob("*/adapter"))
        for mode in MODES if runs else ():
            with tempfile.TemporaryDirectory() as folder:
                results = [merge_trained(run, Path(folder) / f"{i}.safetensors", mode) for i, run in enumerate(runs)]
            pairs = [result.accuracy for result in results if result.accuracy is not None]
            before, after = (statistics.mean(values) for values in zip(*pairs, strict=True))
            differences = ", ".join(f"{b - a:+.1f}" for a, b in pairs)
            error = statistics.mean(e for result in results for e in result.merged.errors.values())
            print(f"| {of_set} | {mode} | {before:.1f} | {after:.1f} | {differences} | {error:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, function, seeds, rows in (
        ("run", run, [0, 1, 2], list(ROWS)),
        ("rates", rates, [100, 101], ["LoRA, rank 8", "Monarch", "MoST"]),
    ):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("data", help="the packed file of SHREC'07")
        verb.add_argument("--output", type=Path, default=Path("runs/ablation"))
        verb.add_argument("--seeds", type=int, nargs="+", default=seeds)
        verb.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
        verb.add_argument("--rows", nargs="+", choices=list(ROWS), default=rows)
    for name, function in (("merge", merge), ("table", table)):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("output", type=Path)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
