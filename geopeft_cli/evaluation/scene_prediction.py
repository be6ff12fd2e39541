"""Predictions of scenes without labels: a label for every point of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geopeft_cli.contracts import Backbone
from geopeft_cli.data.clouds import IGNORED
from geopeft_cli.data.formats.fields import SUFFIXES, Fields, read_fields, table_fields
from geopeft_cli.data.scene_batches import SceneBatch, packed
from geopeft_cli.data.scene_fields import Absent, completed, scene_of_fields
from geopeft_cli.data.scene_pipelines import ScenePipeline, Views
from geopeft_cli.data.scenes import Int64, Scene, checked_scene, rescaled
from geopeft_cli.data.semantic_kitti import read_frame
from geopeft_cli.errors import DataError
from geopeft_cli.evaluation.prediction import Prediction, Predictor, Prepared, as_numbers
from geopeft_cli.evaluation.scenes import fragment_scores, not_finite, shares
from geopeft_cli.geometry.serialization import curve_depths


@dataclass(frozen=True)
class PreparedScene(Prepared):
    """A scene as the model sees it.

    Attributes:
        scene: in meters, with all that the model reads.
        batch: one view of it.
        rows: int64 (n,), of every point its row there.
    """

    scene: Scene
    batch: SceneBatch
    rows: Int64


@dataclass(frozen=True)
class SceneReading:
    """How scenes of files become those that a model was trained on.

    Attributes:
        pipeline: of the recipe.
        features: what the model reads of a voxel.
        absent: what stands in for features that a file lacks.
        scale: from the unit of files to meters.
        columns: names of the columns of files and arrays that have none, see ``read_fields``.
    """

    pipeline: ScenePipeline
    features: tuple[str, ...]
    absent: Absent = Absent()  # noqa: RUF009 - frozen
    scale: float = 1.0
    columns: tuple[str, ...] = ()


class ScenePredictor(Predictor[PreparedScene]):
    """Labels all points of scenes, one scene at a time.

    Args:
        model: in eval mode, on ``device``.
        reading: of the recipe.
        device: of the model.
        autocast: the context of the forward pass.
        views: the copies of a scene whose fragments decide together, see ``vote_scenes``; None for one view, where each
            point has the label of its voxel.
    """

    noun = "scene"
    suffixes = (*SUFFIXES, ".bin")

    def __init__(
        self,
        model: Backbone,
        reading: SceneReading,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        views: Views | None = None,
    ) -> None:
        super().__init__(model, device, autocast)
        self._reading, self._views = reading, views

    def from_file(self, path: Path, name: str, category: int = 0) -> PreparedScene:
        """Labels in the file do not count, and points with a coordinate that is not finite are left out.

        A ``.bin`` file is a frame of SemanticKITTI.
        """
        if path.suffix.lower() == ".bin":
            return self._prepared(read_frame(path, None, name), str(path))
        scene = scene_of_fields(name, read_fields(path, self._reading.columns), None, str(path))
        return self._prepared(scene, str(path))

    def from_memory(self, given: object, name: str, category: int = 0) -> PreparedScene:
        """A :class:`Scene`, fields by name, or an array with the columns that a .npy file would have."""
        if isinstance(given, Scene):
            unlabelled = np.full(len(given), IGNORED, dtype=np.int64)
            scene = replace(given, labels=unlabelled, rows=None, kept=None, voxels=None)
            return self._prepared(scene, f"{name} ({given.name})")
        fields: Fields
        if isinstance(given, Mapping):
            fields = {str(key): np.asarray(value) for key, value in given.items()}
        else:
            fields = table_fields(name, as_numbers(given, name), self._reading.columns)
        scene = scene_of_fields(name, fields, None, name)
        if scene.rows is not None:
            raise DataError(f"{name}: holds values that are not finite", "Leave those points out.")
        return self._prepared(scene, name)

    def _prepared(self, read: Scene, where: str) -> PreparedScene:
        reading = self._reading
        scene, filled = self._filled(checked_scene(read, 0, where), where)
        scene = rescaled(scene, reading.scale)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                view = reading.pipeline.view(scene)
            batch = packed([view.scene], reading.features)
            curve_depths(batch.scenes.voxels, batch.scenes.offsets)  # whether the network can order them
        except DataError as error:
            raise DataError(f"{where}: {error.message}", error.hint) from error
        return PreparedScene(read.name, 0, read.coordinates, scene, batch, view.inverse, filled=filled)

    def _filled(self, scene: Scene, where: str) -> tuple[Scene, dict[str, str]]:
        """With what the model reads and the scene lacks, and what that is."""
        features, absent = self._reading.features, self._reading.absent
        told: dict[str, str] = {
            name: getattr(absent, name, "none") for name in features if getattr(scene, name) is None
        }
        for name, how in told.items():
            if how == "none":
                raise DataError(f"{where}: has no {name}, which the model reads", f"Add {name} to the points.")
        needed = Absent(absent.colors if "colors" in told else "none", absent.normals if "normals" in told else "none")
        return completed(scene, needed), told

    def predict(self, prepared: Sequence[PreparedScene]) -> list[Prediction]:
        """Ask the model about scenes, one after the other."""
        ask = self._one_view if self._views is None else self._fragments
        return [ask(scene) for scene in prepared]

    def record(self) -> dict[str, Any]:
        reading, views = self._reading, self._views
        prepared = {"scale": reading.scale, "grid": reading.pipeline.grid, "features": list(reading.features)}
        voting = {"voting": "none"} if views is None else {"voting": "fragments", "views": views}
        return {"prepared": prepared, **voting}

    @torch.no_grad()
    def _one_view(self, scene: PreparedScene) -> Prediction:
        with self._autocast():
            logits = self._model(scene.batch.scenes.to(self._device)).float()
        if not logits.isfinite().all():
            raise not_finite(scene.name)
        return Prediction(scene, self._task.probabilities(logits).cpu().numpy(), scene.rows)

    def _fragments(self, scene: PreparedScene) -> Prediction:
        assert self._views is not None
        pipeline, features = self._reading.pipeline, self._reading.features
        how = self._views, self._device, self._autocast
        return Prediction(scene, shares(fragment_scores(self._model, scene.scene, pipeline, features, *how)))
