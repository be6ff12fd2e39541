"""``geopeft inspect``: show what a recipe, a run, an adapter or a checkpoint holds, and which recipes ship."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from geopeft_cli.errors import UsageError


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|RUN|ADAPTER|CHECKPOINT",
            help="A recipe (file or shipped name), a run folder, an adapter directory or a checkpoint file.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes that ship.")] = False,
    copy: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NAME FILE", help="Copy a shipped recipe to a new file.", show_default=False),
    ] = None,
) -> None:
    """Show parameters by site, sizes and warnings, without training anything.

    [bold]Examples[/bold]

      geopeft inspect runs/quickstart

      geopeft inspect recipe.yaml --json

      geopeft inspect --recipes

      geopeft inspect --copy quickstart my_recipe.yaml
    """
    if sum((target is not None, recipes, copy is not None)) != 1:
        raise UsageError("inspect takes one of: a target, --recipes, --copy", "see 'geopeft inspect --help'")
    if copy is not None:
        _copy(*copy)
    elif recipes:
        _list(as_json)
    elif target is not None:
        _show(target, as_json)


def _copy(name: str, file: Path) -> None:
    from geopeft_cli.recipe.catalog import copy_recipe

    print(f"{copy_recipe(name, file)}: copied; run it with 'geopeft finetune {file}'", file=sys.stderr)


def _list(as_json: bool) -> None:
    from geopeft_cli.recipe.catalog import list_recipes

    entries = list_recipes()
    if as_json:
        rows = [{"name": entry.name, "path": str(entry.path), "description": entry.description} for entry in entries]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.description}".rstrip())


def _show(target: str, as_json: bool) -> None:
    from geopeft_cli.reports.console import console, print_parameters
    from geopeft_cli.verbs.inspect import inspect_path

    found = inspect_path(target)
    if as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    out = console()
    width = max(len(heading) for heading in found.facts)
    for heading, fact in found.facts.items():
        if fact not in (None, [], {}):
            out.print(f"{heading.replace('_', ' '):{width}}  {_in_words(fact)}")
    out.print()
    print_parameters(found.table, out)


def _in_words(fact: object) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{key} {_in_words(value)}" for key, value in fact.items())
    if isinstance(fact, list):
        return ", ".join(_in_words(entry) for entry in fact)
    return f"{fact:.4g}" if isinstance(fact, float) else str(fact)
