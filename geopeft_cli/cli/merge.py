"""``geopeft merge``: fold an adapter into the weights of its base."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class MergeMode(str, Enum):
    """How an adapter is folded: the modes from ``drop-k`` on approximate, the others change no output."""

    auto = "auto"
    exact = "exact"
    keep_k = "keep-k"
    stacked = "stacked"
    drop_k = "drop-k"
    dc = "dc"
    calibrated_scalar = "calibrated-scalar"
    calibrated_matrix = "calibrated-matrix"


def merge(
    source: Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder or an adapter directory.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The checkpoint to write; it must not exist.")],
    mode: Annotated[
        MergeMode,
        typer.Option(
            help="auto folds exactly where that is possible and keeps the geometric remainder (keep-k) elsewhere; "
            "stacked keeps it in one larger layer. The modes from drop-k on cost nothing at run time and approximate."
        ),
    ] = MergeMode.auto,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values over those of the adapter's recipe.", show_default=False),
    ] = None,
) -> None:
    """Fold an adapter into its base and write a checkpoint in the official layout.

    The merged model is compared with the unmerged one on real clouds before the file is put in place.

    [bold]Examples[/bold]

      geopeft merge runs/quickstart --output merged.safetensors

      geopeft merge runs/quickstart --output small.safetensors --mode calibrated-matrix
    """
    from geopeft_cli.reports.console import console
    from geopeft_cli.verbs.merge import merge_trained

    result = merge_trained(source, output, mode.value, overrides or ())
    merged, out = result.merged, console()
    how = "exact up to rounding" if merged.exact else "APPROXIMATE"
    out.print(f"{output}: {merged.layers} layers merged by {merged.mode}, {how}")
    out.print(
        f"largest difference of a logit {merged.difference:.1e} (their root mean square is {merged.scale:.2f}), "
        f"on {result.clouds}"
    )
    for name, error in merged.errors.items():
        out.print(f"  {name}  relative error {error:.3f}")
    if result.accuracy is not None:
        before, after = result.accuracy
        out.print(f"test accuracy {before:.2f} % unmerged, {after:.2f} % merged ({after - before:+.2f})")
    if merged.mode in ("keep-k", "stacked"):
        zero = [f"--mode {name}" for name, exact in merged.choices.items() if not exact and name != "exact"]
        out.print(
            "The geometric remainder is kept beside the weights: the file runs in geopeft. "
            f"Without overhead, approximately: {', '.join(zero)}."
        )
