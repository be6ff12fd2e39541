"""The geometry of a forward pass: which token has which center."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from geopeft_cli.errors import GeometryError, ShapeError

T = TypeVar("T")
Convolution = Literal["torch", "spconv"]


class Remembering:
    """What one layer computes for the others of the same forward pass."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}

    def memo(self, key: Any, build: Callable[[], T]) -> T:
        """``build()`` at the first call with ``key``, its result at every later one of this forward pass."""
        if key not in self._memo:
            self._memo[key] = build()
        value: T = self._memo[key]
        return value


class Level(Remembering):
    """The tokens of one stage of the current forward pass.

    Args:
        centers: (B, G, 3), coordinates as the network sees them.
        slots: int64 (T,), for every place in the sequence the index of its center, -1 for tokens without one; (B, T)
            where every cloud has an order of its own. A center may stand in several places.
    """

    def __init__(self, centers: Tensor, slots: Tensor) -> None:
        super().__init__()
        self.centers = centers
        self.slots = slots

    @property
    def described(self) -> str:  # for messages
        return f"{self.slots.shape[-1]} a cloud"

    def describes(self, x: Tensor) -> bool:
        """Whether ``x`` has the shape of the level's tokens, (B, T, C)."""
        return x.ndim == 3 and x.shape[1] == self.slots.shape[-1]

    @property
    def leading(self) -> int:
        """Places before the centers, in a sequence that ends with all of them, each once and in their order."""
        return self.slots.shape[-1] - self.centers.shape[1]

    def prompted(self, count: int) -> Level:
        """Such a sequence with ``count`` more places, which have no center, before those that have one."""

        def build() -> Level:
            before, after = self.slots[: self.leading], self.slots[self.leading :]
            return Level(self.centers, torch.cat([before, after.new_full((count,), -1), after]))

        return self.memo(("prompted", count), build)


class PackedLevel(Level):
    """The tokens of scenes of different sizes one after the other, (N, C), each with a center of its own.

    Args:
        centers: (N, 3), in the order of the tokens.
        offsets: int64 (scenes + 1,), where the scenes begin, and N.
    """

    def __init__(self, centers: Tensor, offsets: Tensor) -> None:
        super().__init__(centers, torch.arange(len(centers), device=centers.device))
        self.offsets = offsets

    @property
    def described(self) -> str:
        return f"{len(self.centers)} in {len(self.offsets) - 1} scenes"

    def describes(self, x: Tensor) -> bool:
        return x.ndim == 2 and len(x) == len(self.centers)

    @property
    def sizes(self) -> list[int]:
        """How many tokens every scene has."""
        return self.memo("sizes", lambda: [int(size) for size in self.offsets.diff().tolist()])


class VoxelLevel(PackedLevel):
    """Packed scenes whose tokens are voxels of a grid.

    Args:
        centers: (N, 3), mean coordinates of what is in the voxels.
        offsets: int64 (scenes + 1,), where the scenes begin, and N.
        voxels: int64 (N, 3), their places in the grid. Several tokens may share one.
        convolution: by which package they are convolved.
    """

    def __init__(self, centers: Tensor, offsets: Tensor, voxels: Tensor, convolution: Convolution = "torch") -> None:
        super().__init__(centers, offsets)
        self.voxels = voxels
        self.convolution: Convolution = convolution


class Geometry(Remembering):
    """What geometry-aware layers need of the current forward pass. Never in a state dict.

    Args:
        levels: one a stage.
        points: the clouds (B, N, 3) as the network got them, where a layer may ask for them.
        shared: what the backbone computed of the clouds before its first block, for its own :meth:`Backbone.describe`.
    """

    def __init__(self, levels: Sequence[Level], points: Tensor | None = None, shared: Any = None) -> None:
        super().__init__()
        self.levels, self.points, self.shared = list(levels), points, shared

    def with_level(self, index: int, level: Level) -> Geometry:
        """The same clouds with another sequence of tokens in one stage."""
        levels = [*self.levels]
        levels[index] = level
        return Geometry(levels, self.points, self.shared)


_current_geometry: ContextVar[Geometry | None] = ContextVar("geometry", default=None)


@contextmanager
def published(geometry: Geometry) -> Iterator[None]:
    """Make ``geometry`` the one that layers see; withdrawn, with all it remembers, on leaving."""
    token = _current_geometry.set(geometry)
    try:
        yield
    finally:
        _current_geometry.reset(token)


def current_level(level: int, reader: str) -> Level:
    """The published level of a stage; ``reader`` is the name of the layer that asks.

    Raises:
        GeometryError: no forward pass of a backbone is under way, or it has no such level.
    """
    return current_geometry(level, reader).levels[level]


def current_geometry(level: int, reader: str) -> Geometry:
    """The published geometry, which has the level of a stage; ``reader`` is the name of the layer that asks.

    Raises:
        GeometryError: no forward pass of a backbone is under way, or it has no such level.
    """
    geometry = _current_geometry.get()
    if geometry is None or level >= len(geometry.levels):
        raise GeometryError(
            f"{reader} needs the centers of its tokens, and no geometry of level {level} is published",
            "Call the backbone, not a layer of it: the backbone publishes the geometry of each forward pass.",
        )
    return geometry


@dataclass
class Tokens:
    """What a trunk returns; of a hierarchical one, the tokens of its last stage.

    Attributes:
        features: (B, T, C), after the final norm; (N, C) where scenes are packed.
        centers: (B, G, 3); (N, 3) where scenes are packed.
        slots: as those of :class:`Level`.
        layers: raw outputs (B, T, C) of the blocks that were asked for, by index.
        places: where the tokens with a center stand, if known beforehand; a recorded graph cannot look for them.
        offsets: of packed scenes, as those of :class:`PackedLevel`.
        stages: of a hierarchical trunk, the centers (B, G, 3) of every stage.
    """

    features: Tensor
    centers: Tensor
    slots: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)
    places: slice | None = None
    offsets: Tensor | None = None
    stages: tuple[Tensor, ...] = ()

    def spatial(self, features: Tensor) -> Tensor:
        """The rows of (B, T, C) that have a center, (B, n, C), one for each of its places; all of packed (N, C).

        Raises:
            ShapeError: clouds differ in the number of such rows.
        """
        if self.offsets is not None:
            return features
        if self.places is not None:
            return features[:, self.places]
        return _rows(features, self._places().expand(features.shape[0], -1))

    def spatial_centers(self) -> Tensor:
        """(B, n, 3), the centers of the rows of :meth:`spatial`; (N, 3) where scenes are packed."""
        if self.offsets is not None:
            return self.centers
        slots = self.slots.expand(self.centers.shape[0], -1)
        return _rows(self.centers, self.spatial(slots.unsqueeze(-1)).squeeze(-1))

    def _places(self) -> Tensor:
        """int64 (1 or B, n)."""
        has_center = self.slots.reshape(-1, self.slots.shape[-1]) >= 0
        counts = has_center.sum(dim=1)
        if bool((counts != counts[0]).any()):
            raise ShapeError(f"clouds of one batch have from {counts.min()} to {counts.max()} tokens with a center")
        return has_center.nonzero()[:, 1].view(len(has_center), -1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """The rows of (B, N, C) at ``index`` (B, M): (B, M, C), without fixing the batch of a recorded graph."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
