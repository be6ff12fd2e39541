"""The local feature distance over the blocks as a picture, drawn by matplotlib without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geopeft_cli.errors import MissingDependencyError, UsageError
from geopeft_cli.reports.local_distance import Block, Figures, LocalDistanceReport
from geopeft_cli.storage import new_file, refuse_existing

SUFFIXES = (".svg", ".png")
PANELS = (("lfd_rel", "relative (1: as any two tokens)"), ("lfd", "raw, in units of the features"))
# The same report gives the same bytes: no date, no random identifiers. Names of runs are no formulas.
STYLE: dict[Any, Any] = {"svg.hashsalt": "geopeft", "svg.fonttype": "none", "text.parse_math": False}


def check_plot(path: Path) -> None:
    """Refuse, before anything is measured, a plot that could not be written.

    Raises:
        UsageError: another format than .svg and .png, or the file exists.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: a plot is a {' or a '.join(SUFFIXES)} file")
    refuse_existing(path, "Choose another --plot, or remove it.", file=True)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "--plot needs matplotlib, which is not installed", 'Run pip install "geopeft[plot]".'
        ) from None


def write_plot(report: LocalDistanceReport, path: Path) -> None:
    """Both figures over the blocks, one line a model, with a band of one standard deviation.

    Raises:
        UsageError, MissingDependencyError: see :func:`check_plot`.
        GeopeftError: the file cannot be written.
    """
    check_plot(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(STYLE), new_file(path) as partial:
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        panels = figure.subplots(1, len(PANELS))
        for panel, (name, title) in zip(panels, PANELS, strict=True):
            lines = []
            for model in report.models:
                mean, std = ([getattr(row, name) for row in rows] for rows in _curves(model.blocks))
                places = range(len(mean))
                style = "k--" if model.kind == "base" else "-"
                (line,) = panel.plot(places, mean, style, marker="o", markersize=3)
                low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
                panel.fill_between(places, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
                lines.append(line)
            panel.set_ylim(bottom=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set(xlabel="block", ylabel=name, title=title)
        # With a space in front, since matplotlib leaves names that begin with an underscore out of a legend.
        figure.legend(lines, [f" {model.name}" for model in report.models], loc="outside lower center")
        figure.suptitle(f"Local feature distance, {report.k} neighbors, {report.n_clouds} {report.split} clouds")
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(partial, format=path.suffix[1:].lower(), metadata=metadata, dpi=150)


def _curves(blocks: list[Block]) -> tuple[list[Figures], list[Figures]]:
    return [block.mean for block in blocks], [block.std for block in blocks]
