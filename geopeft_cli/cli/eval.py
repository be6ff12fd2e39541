"""``geopeft eval``: measure an adapter on the data of its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geopeft_cli.errors import UsageError


def evaluate(
    source: Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder or an adapter directory.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values over those of the run's recipe.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure an adapter on the split that its recipe names, or on other data.

    [bold]Examples[/bold]

      geopeft eval runs/quickstart

      geopeft eval runs/quickstart evaluation.split=validation --json

      geopeft eval adapter/ data.root=~/scans
    """
    raise UsageError("not available yet")
