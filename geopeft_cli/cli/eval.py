"""``geopeft eval``: measure a trained adapter, or predict clouds and scenes without labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from geopeft_cli.errors import UsageError

PANEL = "Predicting clouds and scenes without labels"


def evaluate(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder, an adapter directory or a merged file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Values over those of the adapter's recipe. With --input, further files.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="FILE|FOLDER",
            help="Clouds, meshes or scenes to predict; can be repeated.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for the results; of scenes without --input, those of the split.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For part segmentation: what all clouds are.",
            show_default="the folder that each is in",
            rich_help_panel=PANEL,
        ),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture", help="Draw every cloud or scene into a .png file.", rich_help_panel=PANEL)
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Go on after a file that cannot be used.", rich_help_panel=PANEL),
    ] = False,
) -> None:
    """Measure an adapter on the split that its recipe names, or on other data with the same classes; with --input,
    predict clouds or scenes without labels.

    [bold]Examples[/bold]

      geopeft eval runs/quickstart

      geopeft eval runs/quickstart evaluation.split=validation --json

      geopeft eval runs/quickstart evaluation.voting=views

      geopeft eval my_adapter data.root=/scans backbone.checkpoint=/weights/pretrain.pth

      geopeft eval my_adapter --input new_scans --predictions found --picture

      geopeft eval runs/rooms evaluation.voting=fragments --predictions found
    """
    if inputs:
        options = {"category": category, "picture": picture, "skip_bad": skip_bad}
        _predict(path, overrides or (), inputs, predictions, as_json, options)
        return
    if category is not None or skip_bad or (picture and predictions is None):
        raise UsageError("--category, --picture and --skip-bad: only with --input and --predictions")
    _measure(path, overrides or (), as_json, predictions, picture)


def _measure(path: Path, overrides: Sequence[str], as_json: bool, folder: Path | None, picture: bool) -> None:
    from geopeft_cli.reports.console import console, print_confusions, print_metrics, print_votes, split_title
    from geopeft_cli.reports.overlaps import print_categories, print_labels

    if folder is None:
        from geopeft_cli.verbs.evaluate import evaluate_trained

        result = evaluate_trained(path, overrides)
    else:
        from geopeft_cli.verbs.predict import predict_split

        result, _ = predict_split(path, folder, overrides, picture=picture)
    if as_json:
        print(json.dumps(asdict(result), indent=2))
        return
    out = console()
    if result.labels:
        print_labels(result.labels, result.confusion, out)
    else:
        print_confusions(result.classes, result.confusion, out)
    if result.categories:
        print_categories(result.categories, out)
    out.print(f"weights kept: {result.weights_kept}")
    print_metrics(result.metrics, f"{split_title(result.split, result.select)}, {result.clouds} {result.unit}s", out)
    if result.counted == "clouds" or result.unit == "scene":
        out.print(f"voting: none, one view of each {result.unit}")
    if result.votes is not None:
        print_votes(result.votes, result.split, out)
    if folder is not None:
        out.print(f"{folder}: {result.clouds} predicted")


def _predict(
    path: Path,
    words: Sequence[str],
    inputs: Sequence[Path],
    folder: Path | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    if folder is None:
        raise UsageError("--input and --predictions go together: what is predicted, and where the results go")
    from geopeft_cli.reports.console import console
    from geopeft_cli.verbs.predict import predict_files

    files = [word for word in words if Path(word).exists()]  # a shell makes several words of --input *.ply
    overrides = [word for word in words if word not in files]
    result = predict_files(path, [*inputs, *map(Path, files)], folder, overrides, **options)
    if as_json:
        print((folder / "predictions.json").read_text(encoding="utf-8"), end="")
    else:
        console().print(f"{folder}: {result.clouds} predicted")
    for one in result.skipped:
        print(f"skipped: {one.reason}", file=sys.stderr)
