"""Predictions of clouds of objects: one label, or one for every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geopeft_cli.contracts import Backbone
from geopeft_cli.data.clouds import Cloud, Labels
from geopeft_cli.data.formats import READERS, read_points
from geopeft_cli.data.keys import derived_seed, keyed_generator
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.sources import POINTS_ON_MESHES
from geopeft_cli.errors import DataError, GeopeftError
from geopeft_cli.evaluation.prediction import Float32, Prediction, Predictor, Prepared, as_numbers
from geopeft_cli.geometry.neighbors import nearest_neighbors


@dataclass(frozen=True)
class PreparedCloud(Prepared):
    """A cloud as the model sees it.

    Attributes:
        drawn: float32 (N, 3), the points that the model sees.
        whole: float32 (n, 3), all points, normalized alike; empty where the cloud gets one label.
    """

    drawn: Float32
    whole: Float32

    @property
    def shown(self) -> Float32:
        return self.whole if len(self.whole) else self.drawn


class ObjectPredictor(Predictor[PreparedCloud]):
    """Draws points of clouds as the recipe says; of a mesh, of those on its surface.

    Every cloud is prepared by the same draws, whatever the others are and wherever it stands among them.

    Args:
        model: in eval mode, on ``device``.
        preparation: of the recipe.
        seed: of the draws.
        device: of the model.
        autocast: the context of the forward pass.
    """

    noun = "cloud"
    suffixes = tuple(READERS)

    def __init__(
        self,
        model: Backbone,
        preparation: Preparation,
        seed: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__(model, device, autocast)
        self._preparation, self._seed = preparation, seed

    def from_file(self, path: Path, name: str, category: int = 0) -> PreparedCloud:
        samples = POINTS_ON_MESHES * self._preparation.points
        return self._prepared(Cloud(read_points(path, samples, derived_seed(self._seed, "predict")), category, name))

    def from_memory(self, given: object, name: str, category: int = 0) -> PreparedCloud:
        """Of an array, the first three columns count."""
        points = as_numbers(given, name)[:, :3].astype(np.float64)
        if not np.isfinite(points).all():
            raise DataError(f"{name}: holds values that are not finite", "Leave those points out.")
        return self._prepared(Cloud(points, category, name))

    def _prepared(self, cloud: Cloud) -> PreparedCloud:
        with np.errstate(over="ignore", invalid="ignore"):
            whole = self._preparation.normalized(cloud)
        if not np.isfinite(whole).all():
            raise DataError(f"{cloud.name}: its coordinates are too large to be normalized", "Check the file.")
        generator = keyed_generator(self._seed, "predict")
        drawn = self._preparation.draw([whole], [generator], training=False)[0]
        kept = slice(None) if self._task.is_dense else slice(0)
        return PreparedCloud(cloud.name, cloud.label, cloud.points[kept], drawn, whole[kept])

    @torch.no_grad()
    def predict(self, prepared: Sequence[PreparedCloud]) -> list[Prediction]:
        """Ask the model about clouds, in one batch."""
        points = torch.from_numpy(np.stack([cloud.drawn for cloud in prepared])).to(self._device)
        categories = torch.tensor([cloud.category for cloud in prepared], device=self._device)
        conditions = (categories,) if self._task.tells_categories else ()
        with self._autocast():
            logits = self._model(points, *conditions).float()
        for cloud, own in zip(prepared, logits, strict=True):
            if not own.isfinite().all():
                raise GeopeftError(
                    f"{cloud.name}: the output of the model is not finite",
                    "The weights have diverged, or the cloud is unlike all that the model was trained on.",
                )
        probabilities = self._task.probabilities(logits, *conditions).cpu().numpy()
        return [Prediction(*pair, self._nearest(pair[0])) for pair in zip(prepared, probabilities, strict=True)]

    def record(self) -> dict[str, Any]:
        own = self._preparation
        prepared = {"points": own.points, "normalize": own.normalize, "sampling": own.sampling}
        return {"prepared": prepared, "voting": "none"}

    def _nearest(self, cloud: PreparedCloud) -> Labels | None:
        if not self._task.is_dense:
            return None
        seen, every = (torch.from_numpy(points)[None].to(self._device) for points in (cloud.drawn, cloud.whole))
        index: Labels = nearest_neighbors(seen, every, 1).index[0, :, 0].cpu().numpy()
        return index
