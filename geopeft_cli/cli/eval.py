"""``geopeft eval``: measure a trained adapter."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder, an adapter directory or a merged file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values over those of the adapter's recipe.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure an adapter on the split that its recipe names, or on other data with the same classes.

    [bold]Examples[/bold]

      geopeft eval runs/quickstart

      geopeft eval runs/quickstart evaluation.split=validation --json

      geopeft eval my_adapter data.root=/scans backbone.checkpoint=/weights/pretrain.pth
    """
    from geopeft_cli.reports.console import console, print_confusions, print_metrics, split_title
    from geopeft_cli.verbs.evaluate import evaluate_trained

    result = evaluate_trained(path, overrides or ())
    if as_json:
        print(json.dumps(asdict(result), indent=2))
        return
    out = console()
    print_confusions(result.classes, result.confusion, out, result.counted)
    out.print(f"weights kept: {result.weights_kept}")
    print_metrics(result.metrics, f"{split_title(result.split, result.select)}, {result.clouds} clouds", out)
