"""``geopeft inspect``: show what a recipe, a run, an adapter or a checkpoint holds, and which recipes ship."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from geopeft_cli.errors import UsageError

PANEL = "With --local-distance"


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|RUN|ADAPTER|CHECKPOINT",
            help="A recipe (file or shipped name), a run folder, an adapter directory or a checkpoint file.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="With --data, --report or --local-distance: values over those of the target's recipe.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes that ship.")] = False,
    copy: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NAME FILE", help="Copy a shipped recipe to a new file.", show_default=False),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Look at a recipe's data instead: what is there, and how it is labeled.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure a finished run again and write its report.html as a new file.",
            show_default=False,
        ),
    ] = None,
    local_distance: Annotated[
        bool,
        typer.Option(
            "--local-distance", help="Measure how much token features differ between neighbors, block by block."
        ),
    ] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|ADAPTER",
            help="With a recipe: what was made of its base.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN|ADAPTER", help="Another model; can be repeated.", show_default=False, rich_help_panel=PANEL
        ),
    ] = None,
    neighbors: Annotated[
        int | None, typer.Option(min=1, help="Nearest tokens of a token.", show_default="4", rich_help_panel=PANEL)
    ] = None,
    clouds: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many at most; with --data too, of each part.", show_default="256", rich_help_panel=PANEL
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw it into a new .svg or .png file.", show_default=False, rich_help_panel=PANEL
        ),
    ] = None,
) -> None:
    """Show parameters by site, sizes and warnings, without training anything.

    [bold]Examples[/bold]

      geopeft inspect runs/quickstart

      geopeft inspect recipe.yaml --json

      geopeft inspect recipe.yaml --data

      geopeft inspect runs/quickstart --report again.html

      geopeft inspect --recipes

      geopeft inspect --copy quickstart my_recipe.yaml

      geopeft inspect runs/quickstart --local-distance --compare runs/small --plot distances.svg
    """
    given = {"--adapter": adapter, "--compare": compare, "--neighbors": neighbors, "--clouds": clouds, "--plot": plot}
    bare = [argument for argument in overrides or () if "=" not in argument]
    if bare:
        raise UsageError(
            f"unexpected argument {bare[0]!r}", "write --compare before every run, and values as KEY=VALUE"
        )
    strays = [] if data or report is not None else [*(overrides or ())]
    strays += [name for name, value in given.items() if value and not (data and name == "--clouds")]
    if strays and not local_distance:
        raise UsageError(f"{', '.join(strays)}: only with --local-distance", "see 'geopeft inspect --help'")
    if data and (local_distance or target is None):
        raise UsageError("--data needs a recipe and does not go with --local-distance")
    if local_distance and target is None:
        raise UsageError("--local-distance needs a recipe, a run, an adapter or a merged file")
    if report is not None and (target is None or data or local_distance or as_json):
        raise UsageError("--report needs a run and goes with no other option")
    if sum((target is not None, recipes, copy is not None)) != 1:
        raise UsageError("inspect takes one of: a target, --recipes, --copy", "see 'geopeft inspect --help'")
    if copy is not None:
        _copy(*copy)
    elif recipes:
        _list(as_json)
    elif target is not None and data:
        _survey(target, overrides or (), as_json, {} if clouds is None else {"clouds": clouds})
    elif target is not None and local_distance:
        counts = {"neighbors": neighbors, "clouds": clouds}
        options = {"adapter": adapter, "compare": compare or (), **{k: v for k, v in counts.items() if v is not None}}
        _measure(target, overrides or (), plot, as_json, options)
    elif target is not None and report is not None:
        _report(Path(target), report, overrides or ())
    elif target is not None:
        _show(target, as_json)


def _measure(
    target: str, overrides: Sequence[str], plot: Path | None, as_json: bool, options: Mapping[str, Any]
) -> None:
    from geopeft_cli.reports.console import console
    from geopeft_cli.reports.local_distance import print_local_distance
    from geopeft_cli.reports.local_distance_plot import check_plot, write_plot

    if plot is not None:
        check_plot(plot)
    from geopeft_cli.verbs.local_distance import measure_local_distance

    report = measure_local_distance(target, overrides, **options)
    if plot is not None:
        write_plot(report, plot)
    if as_json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        print_local_distance(report, console())


def _survey(target: str, overrides: Sequence[str], as_json: bool, options: Mapping[str, Any]) -> None:
    from geopeft_cli.reports.console import console
    from geopeft_cli.reports.data_survey import print_data_survey
    from geopeft_cli.verbs.data_survey import survey_data

    survey = survey_data(target, overrides, **options)
    if as_json:
        print(json.dumps(survey.to_json(), indent=2, ensure_ascii=False))
    else:
        print_data_survey(survey, console())


def _report(run: Path, file: Path, overrides: Sequence[str]) -> None:
    from geopeft_cli.verbs.report import report_again

    report_again(run, file, overrides)
    print(f"report: {file}")


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
