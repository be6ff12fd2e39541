"""The local feature distance of several models, block by block: a record, and a table with bars for people."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

BAR_WIDTH = 16


@dataclass(frozen=True)
class Figures:
    """The two figures at one place of a model; see ``geometry.local_distance``."""

    lfd: float
    lfd_rel: float


@dataclass(frozen=True)
class Block:
    """Mean and standard deviation over the clouds, after one block."""

    mean: Figures
    std: Figures


@dataclass(frozen=True)
class ModelDistance:
    """One model.

    Attributes:
        name: what the user called it.
        kind: ``base``, ``adapted`` or ``merged``.
        method: recipe name of the method.
        tokens: tokens with a center, of a cloud.
        blocks: in the order of the forward pass.
        follows_base: whether a difference to the base means something: made for it, and with its tokens.
        accuracy: on the test split of its own training, in percent, where that is recorded.
    """

    name: str
    kind: Literal["base", "adapted", "merged"]
    method: str | None
    tokens: int
    blocks: list[Block]
    follows_base: bool = True
    accuracy: float | None = None


@dataclass(frozen=True)
class LocalDistanceReport:
    """All models of a call, on the same clouds.

    Attributes:
        split: where the clouds are from.
        k: neighbors of a token that were asked for.
        n_clouds: clouds that were measured.
        skipped: clouds left out, in which a model has fewer than two tokens.
        models: the base, where there is one, comes first.
        notes: what a reader must know.
    """

    split: str
    k: int
    n_clouds: int
    skipped: int
    models: list[ModelDistance]
    notes: list[str] = field(default_factory=list)

    @property
    def base(self) -> ModelDistance | None:
        return next((model for model in self.models if model.kind == "base"), None)

    def difference(self, model: ModelDistance, block: int) -> Figures | None:
        """A model minus the base after a block; ``None`` where there is nothing to subtract."""
        base = self.base
        if base is None or model is base or not model.follows_base or block >= min(len(base.blocks), len(model.blocks)):
            return None
        own, other = model.blocks[block].mean, base.blocks[block].mean
        return Figures(own.lfd - other.lfd, own.lfd_rel - other.lfd_rel)

    @property
    def measured(self) -> list[tuple[float, float]]:
        """(lfd_rel of the last block, accuracy) of the models that have both."""
        return [(m.blocks[-1].mean.lfd_rel, m.accuracy) for m in self.models if m.accuracy is not None]

    @property
    def correlation(self) -> float | None:
        """Pearson's r of :attr:`measured`; ``None`` for fewer than three models, or where one figure is constant."""
        if len(self.measured) < 3:
            return None
        try:
            return statistics.correlation(*zip(*self.measured, strict=True))
        except statistics.StatisticsError:
            return None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "local_distance",
            "split": self.split,
            "k": self.k,
            "n_clouds": self.n_clouds,
            "skipped": self.skipped,
            "models": [self._model_json(model) for model in self.models],
            "correlation": None
            if len(self.measured) < 3
            else {"pearson": self.correlation, "runs": len(self.measured)},
            "notes": self.notes,
        }

    def _model_json(self, model: ModelDistance) -> dict[str, Any]:
        rows = [self._block_json(model, index) for index in range(len(model.blocks))]
        keys = ("name", "kind", "method", "tokens", "accuracy")
        return {key: getattr(model, key) for key in keys} | {"blocks": rows, "last": rows[-1]}

    def _block_json(self, model: ModelDistance, index: int) -> dict[str, Any]:
        block, change = model.blocks[index], self.difference(model, index)
        return {
            "block": index,
            **vars(block.mean),
            "std": dict(vars(block.std)),
            "difference": None if change is None else dict(vars(change)),
        }


def print_local_distance(report: LocalDistanceReport, out: Console) -> None:
    """Every block with a bar for ``lfd_rel``, then the last block beside the accuracy, then the notes."""
    skipped = f", {report.skipped} skipped with fewer than two tokens" if report.skipped else ""
    out.print(
        f"local feature distance between a token and its {report.k} nearest, "
        f"{report.n_clouds} clouds of the {report.split} split{skipped}"
    )
    out.print()
    out.print(_blocks(report))
    out.print()
    out.print(_summary(report))
    if len(report.measured) >= 3:
        r = report.correlation
        shown = "undefined, since one of the two is constant" if r is None else f"{r:.3f}"
        out.print(
            f"Pearson correlation of its lfd_rel with the test accuracy over {len(report.measured)} runs: {shown}"
        )
    for note in report.notes:
        out.print(f"note: {note}")


def _blocks(report: LocalDistanceReport) -> Table:
    depth = max(len(model.blocks) for model in report.models)
    top = max(block.mean.lfd_rel for model in report.models for block in model.blocks) or 1.0
    view = _table("block", "model", "lfd", "difference", "lfd_rel", "difference", f"0 to {top:.3f}")
    for index in range(depth):
        for place, model in enumerate(report.models):
            head = "" if place else str(index)
            if index >= len(model.blocks):
                view.add_row(head, model.name, *"-----")
                continue
            mean, change = model.blocks[index].mean, report.difference(model, index)
            view.add_row(
                head,
                model.name,
                f"{mean.lfd:.4g}",
                "-" if change is None else f"{change.lfd:+.2g}",
                f"{mean.lfd_rel:.4f}",
                "-" if change is None else f"{change.lfd_rel:+.2g}",
                ProgressBar(total=top, completed=mean.lfd_rel, width=BAR_WIDTH),
            )
    return view


def _summary(report: LocalDistanceReport) -> Table:
    view = _table("last block", "method", "lfd (std)", "lfd_rel (std)", "test accuracy")
    for model in report.models:
        last = model.blocks[-1]
        view.add_row(
            model.name,
            model.method or "-",
            f"{last.mean.lfd:.4g} ({last.std.lfd:.2g})",
            f"{last.mean.lfd_rel:.4f} ({last.std.lfd_rel:.4f})",
            "-" if model.accuracy is None else f"{model.accuracy:.2f} %",
        )
    return view


def _table(*headings: str) -> Table:
    view = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        names = heading in ("model", "last block")
        right = place > 1 and not heading.startswith("0 to")
        view.add_column(heading, justify="right" if right else "left", no_wrap=not names, overflow="fold")
    return view
