"""From the figures of every cloud to a report that says what may be compared with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.errors import GeopeftError
from geopeft_cli.geometry.local_distance import spread
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.local_distance import Block, Figures, LocalDistanceReport, ModelDistance


@dataclass(frozen=True)
class Measured:
    """A model on all clouds.

    Attributes:
        name: what the user called it.
        figures: float64 (depth, 2, clouds), lfd and lfd_rel; NaN for clouds of fewer than two tokens.
        centers: (clouds, G, 3), of its tokens.
        base_sha256: digest of its base.
        manifest: its record, ``None`` for the base.
    """

    name: str
    figures: Tensor
    centers: Tensor
    base_sha256: str
    manifest: Manifest | None = None

    @property
    def accuracy(self) -> float | None:
        """On its own test split, in percent, where it was measured."""
        if self.manifest is None:
            return None
        merged = self.manifest.merged
        if merged is not None and not merged.get("exact"):
            found = merged.get("test_accuracy", {}).get("merged")
        else:
            found = self.manifest.metrics.get("test", {}).get("accuracy")
        return None if found is None else float(found)


def compared(
    measured: Sequence[Measured], recipe: Recipe, split: str, neighbors: int, missing: str | None
) -> LocalDistanceReport:
    """The report on models, of which the first is the one that others are held against.

    Args:
        measured: at least one, the base first where there is one.
        recipe: the target's, from which the clouds are.
        split: where the clouds are from.
        neighbors: k.
        missing: why there is no base, if so.

    Raises:
        GeopeftError: in no cloud all models have two tokens.
    """
    usable = torch.stack([model.figures.isfinite().all(dim=0).all(dim=0) for model in measured]).all(dim=0)
    if not usable.any():
        raise GeopeftError("there is no cloud in which every model has two tokens", "Use more backbone.groups.")
    notes = [] if split == "validation" else ["the clouds are of the test split: the data has no validation split"]
    notes += [] if missing is None else [missing]
    for model in measured:
        notes += _notes(model, measured[0], recipe, neighbors)
    return LocalDistanceReport(
        split,
        neighbors,
        int(usable.sum()),
        int((~usable).sum()),
        [_model(model, measured[0], usable) for model in measured],
        notes,
    )


def _model(model: Measured, first: Measured, usable: Tensor) -> ModelDistance:
    blocks = []
    for lfd, lfd_rel in model.figures[..., usable]:
        absolute, relative = spread(lfd), spread(lfd_rel)
        blocks.append(Block(Figures(absolute.mean, relative.mean), Figures(absolute.std, relative.std)))
    manifest = model.manifest
    return ModelDistance(
        model.name,
        "base" if manifest is None else "adapted" if manifest.merged is None else "merged",
        None if manifest is None else manifest.recipe["method"]["name"],
        model.centers.shape[1],
        blocks,
        model.base_sha256 == first.base_sha256 and torch.equal(model.centers, first.centers),
        model.accuracy,
    )


def _notes(model: Measured, first: Measured, recipe: Recipe, neighbors: int) -> Iterator[str]:
    tokens, expected = model.centers.shape[1], first.centers.shape[1]
    if neighbors >= tokens:
        yield f"{model.name}: its {tokens} tokens have {tokens - 1} neighbors each, not {neighbors}"
    if not torch.equal(model.centers, first.centers):
        counts = f"{tokens} tokens instead of {expected}" if tokens != expected else "tokens at other places"
        yield f"{model.name}: {counts}, so that its neighborhoods are others than those of {first.name}"
    if model.base_sha256 != first.base_sha256:
        yield f"{model.name}: made for another base, so that no difference is shown"
    if model.manifest is None:
        return
    own, given = model.manifest.recipe, recipe.objects
    points, normalize = own["data"]["points"], own["data"]["normalize"]
    if (points, normalize) != (given.points, given.normalize):
        yield (
            f"{model.name}: trained on {points} points, normalize {normalize}; "
            f"measured on {given.points} points, normalize {given.normalize}"
        )
    if model.accuracy is not None and own["training"]["select"] == "best_test":
        yield f"{model.name}: its weights were chosen on the test split; its accuracy is not an unbiased figure"
