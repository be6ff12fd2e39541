"""Random views of clouds, over which a model votes in testing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from geopeft_cli.data.augmentation import AUGMENTATIONS, ONE_DRAW_PER_BATCH
from geopeft_cli.data.batches import CACHE_BYTES, Batch
from geopeft_cli.data.clouds import CloudSet, Labels
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.prefetch import prefetched
from geopeft_cli.data.preparation import Float32, Preparation
from geopeft_cli.errors import UsageError


class Views:
    """A set of clouds in its stored order, each time with other points and another random change.

    As the released codes vote: the points that :meth:`Preparation.candidates` names, of these a random choice, and on
    it the augmentations. Every draw is keyed by (seed, view, index of the cloud) and does not depend on the batch.

    Args:
        clouds: the set; points of it without labels.
        preparation: normalization and drawing of points.
        batch_size: clouds in a batch.
        seed: of all draws.
        augment: names in ``AUGMENTATIONS``, applied in this order.

    Raises:
        UsageError: an augmentation that is unknown or is defined for whole batches.
    """

    def __init__(
        self, clouds: CloudSet, preparation: Preparation, *, batch_size: int, seed: int, augment: Sequence[str] = ()
    ) -> None:
        unfit = [name for name in augment if name not in AUGMENTATIONS or name in ONE_DRAW_PER_BATCH]
        if unfit:
            known = ", ".join(name for name in AUGMENTATIONS if name not in ONE_DRAW_PER_BATCH)
            raise UsageError(f"evaluation.view_augment: cannot be {', '.join(unfit)}", f"Use some of {known}.")
        self._clouds = clouds
        self._labels: Labels = clouds.labels()
        self._preparation = preparation
        self._batch_size = batch_size
        self._seed = seed
        self._augment = tuple(augment)
        self._kept: dict[int, Float32] = {}
        self._left = CACHE_BYTES

    def view(self, number: int) -> Iterator[Batch]:
        """One pass over the set; ``number`` selects the draws."""
        size, order = self._batch_size, np.arange(len(self._clouds))
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        yield from prefetched(partial(self._batch, number, chunk) for chunk in chunks)

    def _batch(self, number: int, indices: Labels) -> Batch:
        points, picks = zip(*(self._seen(number, int(index)) for index in indices), strict=True)
        return Batch(
            torch.from_numpy(np.stack(points)),
            torch.from_numpy(self._labels[indices]),
            torch.from_numpy(indices),
            torch.from_numpy(np.stack(picks)),
        )

    def _seen(self, number: int, index: int) -> tuple[Float32, Labels]:
        generator = keyed_generator(self._seed, "views", number, index)
        candidates = self._candidates(index)
        picks = self._preparation.chosen(len(candidates), generator)
        points = candidates[picks]
        for name in self._augment:
            points = AUGMENTATIONS[name](points, generator)
        return points, picks

    def _candidates(self, index: int) -> Float32:
        """The points of a cloud that its views draw from, kept while there is room."""
        if index in self._kept:
            return self._kept[index]
        whole = self._preparation.normalized(self._clouds[index])
        candidates = whole[self._preparation.candidates([whole])[0]]
        if candidates.nbytes <= self._left:
            self._left -= candidates.nbytes
            self._kept[index] = candidates
        return candidates
