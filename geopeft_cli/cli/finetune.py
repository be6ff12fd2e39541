"""``geopeft finetune``: train the adapter that a recipe describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geopeft_cli.errors import UsageError


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

    The run folder holds the resolved recipe, metrics.jsonl, checkpoints and the adapter.

    [bold]Examples[/bold]

      geopeft finetune quickstart

      geopeft finetune recipe.yaml method.rank=4 training.lr=1e-3 --output runs/rank4

      geopeft finetune recipe.yaml --output runs/rank4 --resume
    """
    if dry_run:
        from geopeft_cli.recipe.dump import dump_recipe
        from geopeft_cli.recipe.load import load_recipe

        print(dump_recipe(load_recipe(recipe, overrides or ())), end="")
        return
    raise UsageError("not available yet")
