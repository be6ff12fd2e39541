"""``geopeft export``: write an adapted model in the format of another program."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class ExportFormat(str, Enum):
    """The formats: a self-contained graph, a checkpoint in the official layout, or an adapter for HF peft."""

    onnx = "onnx"
    pt2 = "pt2"
    official = "official"
    peft = "peft"


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder or an adapter directory.")],
    layout: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="onnx and pt2 (torch.export) are whole programs from points to logits; "
            "official is a checkpoint in the layout of the backbone's authors; peft is an adapter for HF peft.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="PATH", help="What to write; it must not exist.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values over those of the adapter's recipe.", show_default=False),
    ] = None,
) -> None:
    """Write an adapted model for another program.

    Programs are run on several batch sizes and point counts and compared before the file is put in place.

    [bold]Examples[/bold]

      geopeft export runs/quickstart --format onnx --output model.onnx

      geopeft export runs/quickstart --format peft --output peft_adapter/
    """
    from geopeft_cli.reports.console import console
    from geopeft_cli.verbs.export import export_trained

    result = export_trained(source, layout.value, output, overrides or ())
    verification, out = result.verification, console()
    out.print(f"{output}: {layout.value}, {verification.file_bytes / 1e6:.1f} MB")
    if verification.verified:
        out.print(
            f"verified against torch in {len(verification.cases)} cases on {result.clouds}: "
            f"largest difference of a logit {verification.difference:.1e}"
        )
    else:
        out.print("NOT verified: the library that reads it is not installed")
