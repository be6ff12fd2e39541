"""``geopeft merge``: fold an adapter into the weights of its base."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from geopeft_cli.errors import UsageError


class MergeMode(str, Enum):
    """How an adapter is folded: ``auto``, ``exact`` and ``keep-k`` change no output, the others approximate."""

    auto = "auto"
    exact = "exact"
    keep_k = "keep-k"
    drop_k = "drop-k"
    dc = "dc"
    calibrated = "calibrated"


def merge(
    source: Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder or an adapter directory.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The checkpoint to write; it must not exist.")],
    mode: Annotated[
        MergeMode,
        typer.Option(
            help="auto folds exactly where that is possible and keeps the geometric remainder (keep-k) elsewhere. "
            "drop-k, dc and calibrated cost nothing at run time and are approximate."
        ),
    ] = MergeMode.auto,
) -> None:
    """Fold an adapter into its base and write a checkpoint in the official layout.

    The merged model is compared with the unmerged one on real clouds before the file is put in place.

    [bold]Examples[/bold]

      geopeft merge runs/quickstart --output merged.safetensors

      geopeft merge runs/quickstart --output small.safetensors --mode calibrated
    """
    raise UsageError("not available yet")
