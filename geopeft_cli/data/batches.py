"""Batches for one pass after another, the same whatever the machine, the batch size of others, or the order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geopeft_cli.data.augmentation import AUGMENTATIONS, ONE_DRAW_PER_BATCH
from geopeft_cli.data.clouds import CloudSet, Labels
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.prefetch import prefetched
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.errors import DataError, UsageError

logger = logging.getLogger("geopeft")

Float32 = npt.NDArray[np.float32]

CACHE_BYTES = 10**9
"""How much memory one :class:`Batches` uses to keep clouds between passes."""


@dataclass(frozen=True)
class Batch:
    """Prepared clouds.

    Attributes:
        points: float32 (B, n, 3).
        labels: int64 (B,).
        indices: int64 (B,), which clouds of the set these are.
    """

    points: Tensor
    labels: Tensor
    indices: Tensor


class Batches:
    """A set of clouds as batches, prepared one ahead in a background thread.

    In training the order, the draw of points and the augmentation are new in every epoch, and a last batch that is
    not full is left out unless it is the only one. In testing there is one order, the stored one, with all clouds and
    no augmentation. Every draw is keyed by (seed, purpose, epoch, index of the cloud), so it does not depend on the
    batch; ``rotate_y_batch`` alone, which is defined so, is keyed by the number of the batch.

    Args:
        clouds: the set.
        preparation: normalization and drawing of points.
        batch_size: clouds in a batch.
        seed: of all draws.
        augment: names in ``AUGMENTATIONS``, applied in this order; in training only.
        training: which of the two ways.
        purpose: part of the key of every draw, and the name of the set in messages; "train" for example.

    Raises:
        UsageError: an unknown augmentation.
        DataError: the set is empty, or is to be trained on with a single cloud.
    """

    def __init__(
        self,
        clouds: CloudSet,
        preparation: Preparation,
        *,
        batch_size: int,
        seed: int,
        augment: Sequence[str] = (),
        training: bool,
        purpose: str,
    ) -> None:
        unknown = [name for name in augment if name not in AUGMENTATIONS]
        if unknown:
            raise UsageError(f"augment: unknown {', '.join(unknown)}", f"Known are {', '.join(AUGMENTATIONS)}.")
        if len(clouds) == 0:
            raise DataError(f"the {purpose} set has no clouds", "Check the split of the data.")
        if training and len(clouds) == 1:
            raise DataError(
                f"the {purpose} set has one cloud: {clouds[0].name}",
                "Batch normalization needs at least two clouds to train on.",
            )
        self._clouds = clouds
        self._labels: Labels = clouds.labels()
        self._preparation = preparation
        self._batch_size = batch_size
        self._seed = seed
        self._augment = tuple(augment)
        self._training = training
        self._purpose = purpose
        self._cache = _Cache(CACHE_BYTES)
        self._small: dict[int, str] | None = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self._clouds), self._batch_size)
        return full if self._training and full else full + (rest > 0)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """One pass; ``epoch`` selects the draws in training and means nothing in testing."""
        order = np.arange(len(self._clouds))
        if self._training:
            order = keyed_generator(self._seed, self._purpose, epoch, "order").permutation(len(order))
        size = self._batch_size
        chunks = [order[start : start + size] for start in range(0, len(order), size)][: len(self)]
        yield from prefetched(partial(self._batch, epoch, number, chunk) for number, chunk in enumerate(chunks))
        self._tell_of_small_clouds()

    def _batch(self, epoch: int, number: int, indices: npt.NDArray[np.int64]) -> Batch:
        points = self._training_points(epoch, number, indices) if self._training else self._test_points(indices)
        return Batch(torch.from_numpy(points), torch.from_numpy(self._labels[indices]), torch.from_numpy(indices))

    def _training_points(self, epoch: int, number: int, indices: npt.NDArray[np.int64]) -> Float32:
        clouds = []
        for index in indices:
            cloud = self._cache.get(index)
            if cloud is None:
                cloud = self._normalized(index)
                self._cache.put(index, cloud)
            clouds.append(cloud)
        generators = [keyed_generator(self._seed, self._purpose, epoch, index) for index in indices]
        points = self._preparation.draw(clouds, generators, training=True)
        for name in self._augment:
            for place, own in enumerate(generators):
                shared = name in ONE_DRAW_PER_BATCH
                generator = keyed_generator(self._seed, self._purpose, epoch, name, number) if shared else own
                points[place] = AUGMENTATIONS[name](points[place], generator)
        return points

    def _test_points(self, indices: npt.NDArray[np.int64]) -> Float32:
        prepared = {index: self._cache.get(index) for index in indices}
        missing = [index for index, points in prepared.items() if points is None]
        if missing:
            clouds = [self._normalized(index) for index in missing]
            generators = [keyed_generator(self._seed, "test", index) for index in missing]
            for index, points in zip(missing, self._preparation.draw(clouds, generators, training=False), strict=True):
                prepared[index] = points
                self._cache.put(index, points)
        return np.stack([points for points in prepared.values() if points is not None])

    def _normalized(self, index: int) -> Float32:
        cloud = self._clouds[int(index)]
        if self._small is not None and len(cloud.points) < self._preparation.points:
            self._small[int(index)] = f"{cloud.name} with {len(cloud.points)}"
        return self._preparation.normalized(cloud)

    def _tell_of_small_clouds(self) -> None:
        if self._small:
            logger.warning(
                "%s: clouds with fewer than %d points, which repeat some of them: %d; the first is %s",
                self._purpose,
                self._preparation.points,
                len(self._small),
                self._small[min(self._small)],
            )
        self._small = None


class _Cache:
    """Arrays by index, until ``limit`` bytes are used."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._arrays: dict[int, Float32] = {}

    def get(self, index: int) -> Float32 | None:
        return self._arrays.get(index)

    def put(self, index: int, array: Float32) -> None:
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            self._arrays[index] = array
