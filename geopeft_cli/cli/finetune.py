"""``geopeft finetune``: train the adapter that a recipe describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def finetune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values over those of the recipe.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run folder to make.", show_default="runs/NAME of the recipe"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train an adapter on the data of a recipe.

    The run folder holds the resolved recipe, metrics.jsonl, checkpoints, the adapter and report.html.

    [bold]Examples[/bold]

      geopeft finetune quickstart

      geopeft finetune recipe.yaml method.rank=4 training.lr=1e-3 --output runs/rank4

      geopeft finetune recipe.yaml --output runs/rank4 --resume
    """
    if dry_run:
        _show_plan(recipe, overrides or ())
        return
    from geopeft_cli.recipe.load import load_recipe
    from geopeft_cli.reports.console import console, duration, print_metrics, split_title

    load_recipe(recipe, overrides or ())  # mistakes are told before torch is imported
    from geopeft_cli.verbs.finetune import finetune as run_recipe

    run = run_recipe(recipe, overrides or (), output, resume)
    if not run.summary:
        return  # a process beside the first one
    out, summary = console(), run.summary
    for split, metrics in sorted(run.metrics.items(), reverse=True):
        print_metrics(metrics, split_title(split, run.recipe.training.select), out)
    out.print(f"weights kept: {run.selection}")
    out.print(
        f"{summary['trainable_parameters']:,} of {summary['total_parameters']:,} parameters trained, "
        f"{duration(summary['wall_seconds'])}"
    )
    out.print(f"adapter: {run.folder / 'adapter'} ({summary['adapter_bytes'] / 1e6:.2f} MB)")
    out.print(f"log:     {run.folder / 'metrics.jsonl'}")
    if (run.folder / "report.html").is_file():
        out.print(f"report:  {run.folder / 'report.html'}")
    out.print("next:")
    out.print(f"  geopeft eval {run.folder}")
    out.print(f"  geopeft merge {run.folder} --output merged.safetensors")
    out.print(f"  geopeft export {run.folder} --format onnx --output model.onnx")
    out.print(f"  geopeft inspect {run.folder}")


def _show_plan(recipe: str, overrides: Sequence[str]) -> None:
    """The resolved recipe on stdout; on stderr what would train, after building the model and finding the data."""
    from geopeft_cli.recipe.dump import dump_recipe
    from geopeft_cli.recipe.load import load_recipe
    from geopeft_cli.reports.console import console, print_parameters
    from geopeft_cli.verbs.finetune import prepare
    from geopeft_cli.verbs.probing import model_table, rates_in_words

    resolved = load_recipe(recipe, overrides)
    print(dump_recipe(resolved), end="", flush=True)
    splits, experiment = prepare(resolved)
    notes = console(stderr=True)
    print_parameters(model_table(experiment), notes)
    for line in rates_in_words(experiment):
        notes.print(line)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = ", ".join(f"{name} {len(part)}" for name, part in parts.items() if part is not None)
    notes.print(f"clouds: {counts}; {len(splits.train.classes)} classes; nothing was trained")
