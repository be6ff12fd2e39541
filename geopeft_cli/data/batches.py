"""Batches for one pass after another, the same whatever the machine, the batch size of others, or the order."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geopeft_cli.data.augmentation import AUGMENTATIONS, ONE_DRAW_PER_BATCH
from geopeft_cli.data.clouds import Cloud, CloudSet, FreshClouds, Labels, PointLabels
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
        labels: int64 (B,), the classes of the clouds: their categories, where points have labels.
        indices: int64 (B,), which clouds of the set these are.
        picks: int64 (B, n), which points of its cloud, as the set gives it, each point is; some may come twice.
        point_labels: int64 (B, n), ``IGNORED`` for points that do not count; None in a set without part names.
    """

    points: Tensor
    labels: Tensor
    indices: Tensor
    picks: Tensor
    point_labels: Tensor | None = None


class Batches:
    """A set of clouds as batches, prepared one ahead in a background thread.

    In training the order, the draw of points and the augmentation are new in every epoch, and a last batch that is
    not full is left out unless it is the only one. In testing there is one order, the stored one, with all clouds and
    no augmentation. Labels of points go with their points. Every draw is keyed by (seed, purpose, epoch, index of the
    cloud), so it does not depend on the batch; ``rotate_y_batch`` alone, which is defined so, is keyed by the number
    of the batch.

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
        DataError: the set is empty, or is to be trained on with a single cloud; in a pass, a cloud without a label for
            each of its points in a set with part names.
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
        self._fresh = clouds if isinstance(clouds, FreshClouds) else None
        self._labels: Labels = clouds.labels()
        self._preparation = preparation
        self._batch_size = batch_size
        self._seed = seed
        self._augment = tuple(augment)
        self._training = training
        self._purpose = purpose
        self._trained: _Cache[_Whole] = _Cache(CACHE_BYTES if training else 0)
        self._tested: _Cache[_Drawn] = _Cache(0 if training else CACHE_BYTES)
        self._small: dict[int, str] | None = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self._clouds), self._batch_size)
        return full if self._training and full else full + (rest > 0)

    def epoch(self, epoch: int) -> Generator[Batch, None, None]:
        """One pass; ``epoch`` selects the draws in training and means nothing in testing."""
        order = np.arange(len(self._clouds))
        if self._training:
            order = keyed_generator(self._seed, self._purpose, epoch, "order").permutation(len(order))
        size = self._batch_size
        chunks = [order[start : start + size] for start in range(0, len(order), size)][: len(self)]
        yield from prefetched(partial(self._batch, epoch, number, chunk) for number, chunk in enumerate(chunks))
        self._tell_of_small_clouds()

    def chosen(self, indices: npt.ArrayLike) -> Batch:
        """Some clouds, by their indices in the set, exactly as a pass gives them in testing."""
        assert not self._training
        return self._batch(0, 0, np.asarray(indices, dtype=np.int64))

    def _batch(self, epoch: int, number: int, indices: Labels) -> Batch:
        drawn = self._trained_on(epoch, number, indices) if self._training else self._tested_on(indices)
        point_labels = [own.point_labels for own in drawn if own.point_labels is not None]
        return Batch(
            torch.from_numpy(np.stack([own.points for own in drawn])),
            torch.from_numpy(self._labels[indices]),
            torch.from_numpy(indices),
            torch.from_numpy(np.stack([own.picks for own in drawn])),
            torch.from_numpy(np.stack(point_labels)) if point_labels else None,
        )

    def _trained_on(self, epoch: int, number: int, indices: Labels) -> list[_Drawn]:
        generators = [keyed_generator(self._seed, self._purpose, epoch, index) for index in indices]
        wholes = [self._whole(*pair) for pair in zip(indices, generators, strict=True)]
        drawn = self._draw(wholes, generators)
        for name in self._augment:
            for place, own in enumerate(generators):
                shared = name in ONE_DRAW_PER_BATCH
                generator = keyed_generator(self._seed, self._purpose, epoch, name, number) if shared else own
                drawn[place] = drawn[place]._replace(points=AUGMENTATIONS[name](drawn[place].points, generator))
        return drawn

    def _tested_on(self, indices: Labels) -> list[_Drawn]:
        prepared = {index: self._tested.get(index) for index in indices}
        missing = [index for index, drawn in prepared.items() if drawn is None]
        if missing:
            wholes = [self._normalized(self._clouds[int(index)], index) for index in missing]
            generators = [keyed_generator(self._seed, "test", index) for index in missing]
            for index, drawn in zip(missing, self._draw(wholes, generators), strict=True):
                prepared[index] = drawn
                self._tested.put(index, drawn)
        return [drawn for drawn in prepared.values() if drawn is not None]

    def _whole(self, index: int, generator: np.random.Generator) -> _Whole:
        """All of a cloud to be trained on, kept unless it is another one in every epoch."""
        if self._fresh is not None:
            return self._normalized(self._fresh.fresh(int(index), generator), index)
        whole = self._trained.get(index)
        if whole is None:
            whole = self._normalized(self._clouds[int(index)], index)
            self._trained.put(index, whole)
        return whole

    def _normalized(self, cloud: Cloud, index: int) -> _Whole:
        if self._small is not None and len(cloud.points) < self._preparation.points:
            self._small[int(index)] = f"{cloud.name} with {len(cloud.points)}"
        labelled = None if cloud.point_labels is None else len(cloud.point_labels)
        if labelled != (len(cloud.points) if self._clouds.part_names else None):
            raise DataError(f"{cloud.name}: has {len(cloud.points)} points and {labelled or 'no'} labels of points")
        return _Whole(self._preparation.normalized(cloud), cloud.point_labels)

    def _draw(self, wholes: Sequence[_Whole], generators: Sequence[np.random.Generator]) -> list[_Drawn]:
        picks = self._preparation.picks([whole.points for whole in wholes], generators, self._training)
        return [whole.at(own) for whole, own in zip(wholes, picks, strict=True)]

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


class _Drawn(NamedTuple):
    """What of a cloud is in a batch."""

    points: Float32
    picks: Labels
    point_labels: Labels | None


class _Whole(NamedTuple):
    """A normalized cloud."""

    points: Float32
    point_labels: PointLabels | None

    def at(self, picks: Labels) -> _Drawn:
        point_labels = None if self.point_labels is None else self.point_labels[picks].astype(np.int64)
        return _Drawn(self.points[picks], picks, point_labels)


T = TypeVar("T", _Drawn, _Whole)


class _Cache(Generic[T]):
    """What is known of clouds by index, until ``limit`` bytes are used."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._kept: dict[int, T] = {}

    def get(self, index: int) -> T | None:
        return self._kept.get(index)

    def put(self, index: int, item: T) -> None:
        size = sum(array.nbytes for array in item if array is not None)
        if size <= self._left:
            self._left -= size
            self._kept[index] = item
