"""Time and memory of one training step of every backbone at the size of its shipped recipes, and of inference.

    python tests/benchmarks/backbone_steps.py [--set scanobjectnn] [--rows point_mae mamba3d] [--methods full most]
    python tests/benchmarks/backbone_steps.py --inference point_gpt_l

A row is a recipe ``classification/SET/ROW_full``: its points, groups and widths, with random weights. The methods of a
row take turns, each in a process of its own; rows follow each other. ``--batch`` is for backbones up to width 384,
``--wide-batch`` for wider ones. See ``processes.py`` for what memory is.

``--inference`` opens a checkpoint file of that size as ``geopeft eval`` does, adds LoRA and classifies one cloud:
memory of the whole process, imports included, after each of the three.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import KILOBYTE, Step, compare
from training_step import warm_up

if TYPE_CHECKING:
    from torch import Tensor

    from geopeft_cli.contracts import Backbone
    from geopeft_cli.recipe.schema import Recipe

CLASSES = tuple(str(i) for i in range(15))
BASE_WIDTH, WIDE_ENCODER = 384, 256  # PointGPT-B and -L; others have no such setting


def rows_of(of_set: str) -> list[str]:
    """Every backbone, in each of its sizes, that has a recipe for full fine-tuning on the set."""
    from geopeft_cli.recipe.catalog import list_recipes

    start, end = f"classification/{of_set}/", "_full"
    names = [entry.name for entry in list_recipes()]
    return [
        name.removeprefix(start).removesuffix(end) for name in names if name.startswith(start) and name.endswith(end)
    ]


def recipe_of(of_set: str, row: str, *overrides: str) -> Recipe:
    from geopeft_cli.recipe.load import load_recipe

    return load_recipe(f"classification/{of_set}/{row}_full", overrides)


def width_of(recipe: Recipe) -> int:
    return recipe.backbone.width or BASE_WIDTH


def official(recipe: Recipe) -> Backbone:
    """The backbone of a recipe in its official size, with random weights."""
    from geopeft_cli.backbones import backbone_class

    kind = backbone_class(recipe.backbone.name)
    takes = inspect.signature(kind).parameters
    sizes: dict[str, Any] = {"encoder_width": WIDE_ENCODER} if width_of(recipe) > BASE_WIDTH else {}
    if recipe.backbone.width:
        sizes |= {"heads": recipe.backbone.width // 64}
    given = recipe.backbone.model_dump()
    return kind(**{name: given[name] for name in takes if given.get(name) is not None} | sizes)


def clouds_of(recipe: Recipe, batch: int) -> Tensor:
    import torch

    return torch.rand(batch, recipe.data.points, 3) - 0.5


def prepare(method: str, of_set: str, row: str, batch: int) -> tuple[Step, int]:
    """A training step of a method on a row's backbone, and how many parameters train."""
    import torch

    from geopeft_cli.methods import method_class
    from geopeft_cli.objective import training_loss
    from geopeft_cli.tasks.classification import Classification
    from geopeft_cli.training.schedule import parameter_groups

    recipe = recipe_of(of_set, row)
    clouds, labels = clouds_of(recipe, batch), torch.arange(batch) % len(CLASSES)
    model = official(recipe).requires_grad_(False)
    method_class(method)().attach(model)
    task = Classification(CLASSES)
    task.attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4)

    def step() -> None:
        training_loss(model, task, clouds, labels)[0].backward()
        torch.nn.utils.clip_grad_norm_(trainable, 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in trainable)


def steps(options: argparse.Namespace) -> None:
    print(f"{options.set}, {options.threads} threads, median of {options.rounds} rounds")
    print("| backbone | batch | points | method | trainable | ms/step | relative | peak MB | relative |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in options.rows or rows_of(options.set):
        recipe = recipe_of(options.set, row)
        batch = options.wide_batch if width_of(recipe) > BASE_WIDTH else options.batch
        points = recipe.data.points
        measured = compare(
            options.methods,
            partial(prepare, of_set=options.set, row=row, batch=batch),
            partial(warm_up, batch=batch, points=points),
            rounds=options.rounds,
            threads=options.threads,
        )
        first = next(iter(measured.values()))
        for method, result in measured.items():
            print(
                f"| {row} | {batch} | {points} | {method} | {result.fact:,} "
                f"| {1000 * statistics.median(result.seconds):.0f} | {result.ratio(first):.2f} "
                f"| {result.memory / 1e6:.0f} | {result.memory / first.memory:.2f} |",
                flush=True,
            )


def write_checkpoint(of_set: str, row: str, path: Path) -> None:
    """A pre-training file of random weights under official names."""
    import torch

    model = official(recipe_of(of_set, row))
    layout = model.layout
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in layout.fresh}
    torch.save({"base_model": {f"{layout.prefix}{layout.file_name(n)}": t for n, t in tensors.items()}}, path)


def classify(of_set: str, row: str, path: Path, threads: int) -> None:
    """Open a checkpoint with LoRA and classify one cloud."""
    import torch

    from geopeft_cli.assemble import build

    torch.set_num_threads(threads)
    report("imports")
    recipe = recipe_of(of_set, row, f"backbone.checkpoint={path}", "method={name: lora}")
    experiment = build(recipe, CLASSES)
    report("opening")
    model = experiment.model.eval()
    del experiment  # and with it the file
    with torch.inference_mode():
        model(clouds_of(recipe, 1))
    report("one cloud")
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"{row}: parameters {parameters / 1e6:.0f} MB")


def report(after: str) -> None:
    """Peak of what was resident so far, and what is now: memory of the process's own, and pages mapped from files,
    which the system takes back when it needs them."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, own, mapped = (int(status[key].split()[0]) * KILOBYTE / 1e6 for key in ("VmHWM", "RssAnon", "RssFile"))
    print(
        f"after {after:10} peak {peak:6.0f} MB, now {own:6.0f} MB of its own and {mapped:6.0f} MB of files", flush=True
    )


def inference(options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrain.pth"
        given = (options.set, options.inference, path)
        for target, values in ((write_checkpoint, given), (classify, (*given, options.threads))):
            process = context.Process(target=target, args=values)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 5), ("batch", 32), ("wide-batch", 8), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--set", default="scanobjectnn", help="scanobjectnn (2048 points) or modelnet40 (1024)")
    parser.add_argument("--rows", nargs="+", help="backbones, as in the names of the recipes; default all")
    parser.add_argument("--methods", nargs="+", default=["full", "most"])
    parser.add_argument("--inference", metavar="ROW", help="memory of classifying one cloud, instead of the table")
    options = parser.parse_args()
    inference(options) if options.inference else steps(options)


if __name__ == "__main__":
    main()
