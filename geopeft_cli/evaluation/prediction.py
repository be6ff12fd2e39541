"""What a model says of clouds without labels, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.contracts import Backbone
from geopeft_cli.data.clouds import Cloud, Labels, Points
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.errors import DataError, GeopeftError
from geopeft_cli.geometry.neighbors import nearest_neighbors

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """A cloud as the model sees it.

    Attributes:
        name: of the cloud, for messages.
        category: the label of its class, where the model is told it.
        drawn: float32 (N, 3), the points that the model sees.
        whole: float32 (n, 3), all points, normalized alike; empty where the cloud gets one label.
        points: (n, 3), the same in the units of the file; empty where the cloud gets one label.
    """

    name: str
    category: int
    drawn: Float32
    whole: Float32
    points: Points


@dataclass(frozen=True)
class Prediction:
    """What a model says of a cloud.

    Attributes:
        cloud: what it saw.
        seen: float32 (classes,), probabilities; with a label a point (N, labels), those of the points it saw.
        nearest: int64 (n,), for every point of the cloud the nearest one that the model saw; None with one label.
    """

    cloud: Prepared
    seen: Float32
    nearest: Labels | None = None

    @property
    def labels(self) -> Labels:
        """The likeliest label: int64 () of the cloud, or (n,) of all of its points."""
        best = np.asarray(self.seen.argmax(axis=-1), dtype=np.int64)
        return best if self.nearest is None else best[self.nearest]

    @property
    def probabilities(self) -> Float32:
        """Float32 (classes,), or (n, labels) for all points of the cloud."""
        return self.seen if self.nearest is None else self.seen[self.nearest]

    @property
    def confidences(self) -> Float32:
        """The probability of the likeliest label: float32 (), or (n,)."""
        most = np.asarray(self.seen.max(axis=-1), dtype=np.float32)
        return most if self.nearest is None else most[self.nearest]


class Predictor:
    """Prepares clouds and asks a model about them.

    Every cloud is prepared by the same draws, whatever the others are and wherever it stands among them.

    Args:
        model: in eval mode, on ``device``.
        preparation: of the recipe.
        seed: of the draws.
        device: of the model.
        autocast: the context of the forward pass.
    """

    def __init__(
        self,
        model: Backbone,
        preparation: Preparation,
        seed: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        assert model.task is not None
        self._model, self._task = model, model.task
        self._preparation = preparation
        self._seed = seed
        self._device = device
        self._autocast = autocast

    def prepare(self, cloud: Cloud) -> Prepared:
        """Normalize a cloud, whose ``label`` is its category, and draw the points that the model sees.

        Raises:
            DataError: its coordinates are too large.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            whole = self._preparation.normalized(cloud)
        if not np.isfinite(whole).all():
            raise DataError(f"{cloud.name}: its coordinates are too large to be normalized", "Check the file.")
        generator = keyed_generator(self._seed, "predict")
        drawn = self._preparation.draw([whole], [generator], training=False)[0]
        if not self._task.is_dense:
            return Prepared(cloud.name, cloud.label, drawn, whole[:0], cloud.points[:0])
        return Prepared(cloud.name, cloud.label, drawn, whole, cloud.points)

    @torch.no_grad()
    def predict(self, clouds: Sequence[Prepared]) -> list[Prediction]:
        """Ask the model about prepared clouds, in one batch.

        Raises:
            GeopeftError: what it says of one is not finite.
        """
        points = torch.from_numpy(np.stack([cloud.drawn for cloud in clouds])).to(self._device)
        categories = torch.tensor([cloud.category for cloud in clouds], device=self._device)
        conditions = (categories,) if self._task.tells_categories else ()
        with self._autocast():
            logits = self._model(points, *conditions).float()
        for cloud, own in zip(clouds, logits, strict=True):
            if not own.isfinite().all():
                raise GeopeftError(
                    f"{cloud.name}: the output of the model is not finite",
                    "The weights have diverged, or the cloud is unlike all that the model was trained on.",
                )
        probabilities = self._task.probabilities(logits, *conditions).cpu().numpy()
        return [Prediction(*pair, self._nearest(pair[0])) for pair in zip(clouds, probabilities, strict=True)]

    def _nearest(self, cloud: Prepared) -> Labels | None:
        if not self._task.is_dense:
            return None
        seen, every = (torch.from_numpy(points)[None].to(self._device) for points in (cloud.drawn, cloud.whole))
        index: Labels = nearest_neighbors(seen, every, 1).index[0, :, 0].cpu().numpy()
        return index
