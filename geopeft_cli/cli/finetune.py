"""``geopeft finetune``: train the adapters that recipes describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geopeft_cli.errors import UsageError

if TYPE_CHECKING:
    from geopeft_cli.recipe.schema import Recipe
    from geopeft_cli.reports.comparison import Row

# What the commands that are told after a run need beside its folder.
NEXT = {"merge": " --output merged.safetensors", "export": " --format onnx --output model.onnx"}


def finetune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE|KEY=VALUE",
            help="Values over those of the recipe, and further recipes to compare it with.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run folder to make; of several runs, the folder for all.",
            show_default="runs/NAME of the recipe, or runs/comparison",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in the folder; several runs always do.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, its protocol and what would train, and stop.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="A run for each of these seeds, such as 0,1,2.", show_default=False),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="A run for each of these few-shot folds, such as 0-9.", show_default=False),
    ] = None,
) -> None:
    """Train an adapter on the data of a recipe, or one for each of several recipes, seeds and folds.

    The run folder holds the resolved recipe, metrics.jsonl, checkpoints, the adapter and report.html. Several runs
    leave a comparison as .csv, .tex and .html; the same command skips what is done and goes on with what was
    interrupted.

    [bold]Examples[/bold]

      geopeft finetune quickstart

      geopeft finetune recipe.yaml method.rank=4 training.lr=1e-3 --output runs/rank4

      geopeft finetune recipe.yaml --output runs/rank4 --resume

      geopeft finetune lora.yaml most.yaml --seeds 0,1,2 --output runs/lora_and_most
    """
    arguments = overrides or []
    others = [argument for argument in arguments if _names_a_recipe(argument)]
    if others or seeds is not None or folds is not None:
        values = [argument for argument in arguments if argument not in others]
        lists = _numbers("--seeds", seeds), _numbers("--folds", folds)
        _compare([recipe, *others], values, output, *lists, dry_run=dry_run)
    elif dry_run:
        _show_plan(recipe, arguments)
    else:
        _run(recipe, arguments, output, resume)


def _names_a_recipe(argument: str) -> bool:
    """Whether it is no value, nor one whose ``=`` was forgotten, as in ``training.lr``."""
    if "=" in argument:
        return False
    from geopeft_cli.recipe.schema import Recipe

    return Path(argument).is_file() or argument.partition(".")[0] not in Recipe.model_fields


def _run(recipe: str, overrides: Sequence[str], output: Path | None, resume: bool) -> None:
    from geopeft_cli.recipe.load import load_recipe
    from geopeft_cli.reports.console import console, duration, print_metrics, split_title

    load_recipe(recipe, overrides)  # mistakes are told before torch is imported
    from geopeft_cli.verbs.finetune import finetune as run_recipe

    run = run_recipe(recipe, overrides, output, resume)
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
    for verb in run.next_verbs:
        out.print(f"  geopeft {verb} {run.folder}{NEXT.get(verb, '')}")


def _show_plan(recipe: str, overrides: Sequence[str]) -> None:
    """The resolved recipe on stdout; on stderr its protocol, and what would train, after building the model and finding
    the data."""
    from geopeft_cli.recipe.dump import dump_recipe
    from geopeft_cli.recipe.load import load_recipe
    from geopeft_cli.reports.comparison import protocol, published_in_words
    from geopeft_cli.reports.console import console

    resolved, notes = load_recipe(recipe, overrides), console(stderr=True)
    print(dump_recipe(resolved), end="", flush=True)
    notes.print(f"protocol: {protocol(resolved)}")
    for entry in resolved.published:
        notes.print(published_in_words(entry))
    _show_model(resolved)


def _show_model(recipe: Recipe) -> None:
    from geopeft_cli.reports.console import console, print_parameters
    from geopeft_cli.verbs.preparing import prepare
    from geopeft_cli.verbs.probing import model_table, rates_in_words

    splits, experiment = prepare(recipe)
    notes = console(stderr=True)
    print_parameters(model_table(experiment), notes)
    for line in rates_in_words(experiment):
        notes.print(line)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = ", ".join(f"{name} {len(part)}" for name, part in parts.items() if part is not None)
    notes.print(f"{_plural(recipe)}: {counts}; {len(splits.train.classes)} classes; nothing was trained")


def _plural(recipe: Recipe) -> str:
    return "scenes" if recipe.of_scenes else "clouds"


def _compare(
    recipes: Sequence[str],
    overrides: Sequence[str],
    output: Path | None,
    seeds: Sequence[int],
    folds: Sequence[int],
    *,
    dry_run: bool,
) -> None:
    from geopeft_cli.recipe.load import load_recipe
    from geopeft_cli.reports.comparison import print_comparison
    from geopeft_cli.reports.console import console

    for recipe in recipes:
        load_recipe(recipe, overrides)  # mistakes are told before torch is imported
    from geopeft_cli.verbs.comparison import DEFAULT_FOLDER, plan_comparison, run_comparison

    folder = output or DEFAULT_FOLDER
    rows = plan_comparison(recipes, overrides, folder, seeds, folds)
    if dry_run:
        _show_comparison(rows)
        return
    notes = console(stderr=True)
    try:
        run_comparison(rows, folder, notes.print)
    except KeyboardInterrupt:
        notes.print("the same command goes on")
        raise
    finally:
        out = console()
        print_comparison(rows, out)
        out.print(f"tables: {folder / 'comparison.html'}, .tex and .csv")
    if any(row.failed for row in rows):
        raise typer.Exit(1)


def _show_comparison(rows: Sequence[Row]) -> None:
    """The resolved recipes on stdout, as documents; on stderr protocols and runs, then what would train."""
    from geopeft_cli.recipe.dump import dump_recipe
    from geopeft_cli.reports.comparison import protocol
    from geopeft_cli.reports.console import console

    notes = console(stderr=True)
    print("---\n".join(dump_recipe(row.recipe) for row in rows), end="", flush=True)
    for row in rows:
        runs = "; ".join(member.title + (" (done)" if member.summary else "") for member in row.members)
        notes.print(f"{row.name}: {protocol(row.recipe)}\n  {len(row.members)} runs: {runs}")
    for row in rows:
        notes.print(f"{row.name}:")
        _show_model(row.recipe)


def _numbers(option: str, text: str | None) -> list[int]:
    """``0,1,2`` and ``0-9`` as whole numbers, each once; none where the option is not given."""
    numbers: dict[int, None] = {}
    for part in [] if text is None else text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        ends = (first, last) if dash else (first, first)
        if not all(end.isdecimal() for end in ends) or int(ends[0]) > int(ends[1]):
            raise UsageError(
                f"{option} {text}: {part.strip()!r} is no whole number and no range", "Such as 0,1,2 or 0-9."
            )
        numbers.update(dict.fromkeys(range(int(ends[0]), int(ends[1]) + 1)))
    return list(numbers)
