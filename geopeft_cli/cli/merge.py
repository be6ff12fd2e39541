"""``geopeft merge``: fold an adapter into the weights of its base, make a LoRA of it, or undo a merge."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geopeft_cli.errors import UsageError

if TYPE_CHECKING:
    from geopeft_cli.verbs.merge import MergeResult
    from geopeft_cli.verbs.to_lora import LoRAResult
    from geopeft_cli.verbs.unmerge import Unmerged

LORA, UNDO = "Make a LoRA adapter", "Undo a merge"  # headings in the help


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
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|ADAPTER|FILE", help="A run folder or an adapter directory; with --unmerge a merged file."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE|DIR",
            help="The checkpoint to write, or with --to-lora and --unmerge the directory; it must not exist.",
        ),
    ],
    mode: Annotated[
        MergeMode,
        typer.Option(
            help="auto folds exactly where that is possible and keeps the geometric remainder (keep-k) elsewhere; "
            "stacked keeps it in one larger layer. The modes from drop-k on cost nothing at run time and approximate."
        ),
    ] = MergeMode.auto,
    to_lora: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            min=1,
            help="Write the nearest LoRA adapter of this rank instead of a checkpoint. Where no exact fold exists, "
            "--mode must name an approximation.",
            show_default=False,
            rich_help_panel=LORA,
        ),
    ] = None,
    reversible: Annotated[
        bool,
        typer.Option(
            "--reversible",
            help="Keep what was folded or trained over in the file, so that --unmerge restores it bit for bit.",
            rich_help_panel=UNDO,
        ),
    ] = False,
    unmerge: Annotated[
        bool,
        typer.Option(
            "--unmerge", help="Write the adapter and the base of a merged file into a directory.", rich_help_panel=UNDO
        ),
    ] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|ADAPTER",
            help="With --unmerge, for a file that is not reversible: what was merged into it.",
            show_default=False,
            rich_help_panel=UNDO,
        ),
    ] = None,
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

      geopeft merge runs/quickstart --output lora --to-lora 8 --mode calibrated-scalar

      geopeft merge runs/quickstart --output merged.safetensors --reversible

      geopeft merge merged.safetensors --output restored --unmerge
    """
    _refuse_combinations(mode, to_lora is not None, reversible, unmerge, adapter is not None)
    if unmerge:
        from geopeft_cli.verbs.unmerge import unmerge as undo

        _tell_unmerged(undo(source, output, adapter, overrides or ()))
    elif to_lora is not None:
        from geopeft_cli.verbs.to_lora import convert_to_lora

        _tell_lora(convert_to_lora(source, output, to_lora, mode.value, overrides or ()))
    else:
        from geopeft_cli.verbs.merge import merge_trained

        _tell_merged(merge_trained(source, output, mode.value, overrides or (), reversible=reversible))


def _refuse_combinations(mode: MergeMode, to_lora: bool, reversible: bool, unmerge: bool, adapter: bool) -> None:
    chosen = {"--to-lora": to_lora, "--reversible": reversible, "--unmerge": unmerge}
    given = [option for option, is_given in chosen.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"merge takes one of --to-lora, --reversible, --unmerge, not {' and '.join(given)}")
    if unmerge and mode is not MergeMode.auto:
        raise UsageError("--mode does not go with --unmerge", "The merged file records its mode.")
    if adapter and not unmerge:
        raise UsageError("--adapter goes with --unmerge only")


def _tell_merged(result: MergeResult) -> None:
    from geopeft_cli.reports.console import console

    merged, out = result.merged, console()
    how = "exact up to rounding" if merged.exact else "APPROXIMATE"
    out.print(f"{result.file}: {merged.layers} layers merged by {merged.mode}, {how}")
    _tell_difference(merged.difference, merged.scale, result.clouds)
    for name, error in merged.errors.items():
        out.print(f"  {name}  relative error {error:.3f}")
    _tell_accuracy(result.accuracy, "unmerged", "merged")
    if merged.mode in ("keep-k", "stacked"):
        zero = [f"--mode {name}" for name, exact in merged.choices.items() if not exact and name != "exact"]
        out.print(
            "The geometric remainder is kept beside the weights: the file runs in geopeft. "
            f"Without overhead, approximately: {', '.join(zero)}."
        )


def _tell_lora(result: LoRAResult) -> None:
    from geopeft_cli.reports.console import console

    out = console()
    what = "the update" if result.mode == "exact" else f"the update by {result.mode}, APPROXIMATE"
    out.print(f"{result.folder}: LoRA of rank {result.rank} for {len(result.truncation)} layers, nearest to {what}")
    _tell_difference(result.difference, result.scale, result.clouds)
    for name, error in result.truncation.items():
        mode = f", of {result.mode} {result.errors[name]:.3f}" if name in result.errors else ""
        out.print(f"  {name}  relative error of the truncation {error:.3g}{mode}")
    _tell_accuracy(result.accuracy, "before", "as LoRA")


def _tell_unmerged(result: Unmerged) -> None:
    from geopeft_cli.reports.console import console
    from geopeft_cli.verbs.unmerge import BASE_FILE

    out = console()
    if result.base == "stored":
        out.print(f"{result.folder}: the adapter that was merged and its base ({BASE_FILE}), bit for bit")
    elif result.base == "checkpoint":
        out.print(f"{result.folder}: the adapter, and the base ({BASE_FILE}) from the recipe's checkpoint, bit for bit")
        out.print(f"Subtracting the update instead would round: by {result.deviation:.1e} at most.")
    else:
        out.print(
            f"{result.folder}: the adapter, and a base ({BASE_FILE}) found by subtracting the update, which rounds. "
            "Its digest is not that of the true base, and the adapter's record has the new one."
        )
    out.print(f"Use it without the recipe's checkpoint: {' '.join(result.arguments)}")


def _tell_difference(difference: float, scale: float, clouds: str) -> None:
    from geopeft_cli.reports.console import console

    console().print(
        f"largest difference of a logit {difference:.1e} (their root mean square is {scale:.2f}), on {clouds}"
    )


def _tell_accuracy(accuracy: tuple[float, float] | None, first: str, second: str) -> None:
    from geopeft_cli.reports.console import console

    if accuracy is not None:
        before, after = accuracy
        console().print(f"test accuracy {before:.2f} % {first}, {after:.2f} % {second} ({after - before:+.2f})")
