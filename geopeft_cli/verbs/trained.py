"""A trained model in memory, for Python: predictions, and other adapters on the same base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.assemble import make_pipeline, make_preparation
from geopeft_cli.data.clouds import Labels
from geopeft_cli.data.scene_fields import Absent
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import UsageError
from geopeft_cli.evaluation.object_prediction import ObjectPredictor
from geopeft_cli.evaluation.prediction import Predictor, Prepared
from geopeft_cli.evaluation.scene_prediction import ScenePredictor, SceneReading
from geopeft_cli.recipe.scene_data import FileSceneData, SceneDataSettings
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.training.precision import autocast, choose_device
from geopeft_cli.verbs.opening import Opened, open_trained
from geopeft_cli.verbs.sharing import SharedBase, form_of

Array: TypeAlias = npt.NDArray[Any]
Location: TypeAlias = str | Path
Given: TypeAlias = Array | Location | Scene | Mapping[str, Array]
Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """What a model says of clouds or scenes, in their order.

    Attributes:
        classes: names of the labels.
        labels: the likeliest, int64 (clouds,); or, for a label a point, a list of int64 (n,), one a cloud.
        probabilities: float32 (clouds, classes), or a list of float32 (n, classes).
        names: the files, or ``cloud 0`` and so on, or of scenes their own.
    """

    classes: tuple[str, ...]
    labels: Labels | list[Labels]
    probabilities: Float32 | list[Float32]
    names: tuple[str, ...]


class TrainedModel:
    """A run, an adapter or a merged file, ready to predict; made by :func:`geopeft_cli.load`.

    Attributes:
        source: where the adapter is.
        recipe: its own, with the overrides given.
    """

    def __init__(self, opened: Opened, device: torch.device, base: SharedBase | None = None) -> None:
        self._opened = replace(opened, experiment=None)  # and with it the tensors of its checkpoint
        self._built = [self._opened]
        self._device = device
        self._base = base

    @classmethod
    def load(cls, path: Location, overrides: Sequence[str] = ()) -> TrainedModel:
        """See :func:`geopeft_cli.load`."""
        with torch.random.fork_rng(devices=()):
            opened = open_trained(Path(path), overrides)
        device = choose_device(opened.recipe.training.device, scenes=opened.recipe.of_scenes)
        opened.model.to(device)
        return cls(opened, device, SharedBase(opened, opened.experiment.checkpoint) if opened.experiment else None)

    @property
    def source(self) -> Path:
        return self._opened.source

    @property
    def recipe(self) -> Recipe:
        return self._opened.recipe

    @property
    def is_dense(self) -> bool:
        """Whether there is a label for every point."""
        task = self._opened.model.task
        return task is not None and task.is_dense

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that are predicted."""
        manifest = self._opened.manifest
        return tuple(manifest.part_names if self.is_dense and manifest.part_names else manifest.classes)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, one of which the model has to be told of every cloud; empty for most models."""
        task = self._opened.model.task
        return tuple(self._opened.manifest.classes) if task is not None and task.tells_categories else ()

    @property
    def batch_size(self) -> int:
        """How many clouds go through the model at a time: one where those of a batch bear on each other; one scene."""
        coupled = getattr(self.recipe.backbone, "variant", None) == "released"
        of_scenes = self.recipe.of_scenes
        return 1 if coupled or of_scenes else self.recipe.evaluation.batch_size

    def predict(self, clouds: Given | Sequence[Given], category: str | Sequence[str] | None = None) -> Predictions:
        """Labels and probabilities of clouds or scenes, which are prepared as the recipe says.

        A cloud's prediction does not depend on the others, beyond rounding.

        Args:
            clouds: one or several, each an array (n, 3) or wider, of which the first three columns count, or a file.
                A scene may also be a :class:`~geopeft_cli.data.scenes.Scene`, or fields by name, as ``{"coordinates":
                ..., "colors": ..., "normals": ...}``, (n, 3) each with colors 0 to 255; the columns of an array are
                those of a .npy file. Coordinates are in the unit of the recipe's files, before ``data.scale``.
            category: for part segmentation what the clouds are, one of ``categories``, or one for each.

        Raises:
            UsageError: no cloud, or a category is missing, unknown or needless.
            DataError: a file or an array that holds no cloud or scene.
        """
        clouds = _listed(clouds)
        if len(clouds) == 0:
            raise UsageError("predict: there are no clouds")
        asked = [category] * len(clouds) if category is None or isinstance(category, str) else list(category)
        if len(asked) != len(clouds):
            raise UsageError(f"predict: {len(clouds)} clouds and {len(asked)} categories")
        labels = [self.category(name) for name in asked]
        predictor, found = self.predictor(), []
        for start in range(0, len(clouds), self.batch_size):
            places = range(start, min(start + self.batch_size, len(clouds)))
            found += predictor.predict([_prepared(predictor, clouds[i], i, labels[i]) for i in places])
        names = tuple(one.cloud.name for one in found)
        if self.is_dense:
            return Predictions(self.classes, [one.labels for one in found], [one.probabilities for one in found], names)
        probabilities = np.stack([one.probabilities for one in found])
        return Predictions(self.classes, probabilities.argmax(axis=1), probabilities, names)

    def with_adapter(self, path: Location, overrides: Sequence[str] = ()) -> TrainedModel:
        """A model of another adapter on the same base, which is not read again and of which there is one copy.

        Args:
            path: a run folder or an adapter directory.
            overrides: ``key.sub=value`` over its recipe.

        Raises:
            UsageError: nothing usable is there, or this model is merged.
            AdapterError: damaged, or made for another base.
        """
        base = self._needed_base()
        opened = base.open(Path(path), overrides)
        opened.model.to(self._device)
        base.share(opened.model)
        return TrainedModel(opened, self._device, base)

    def swap(self, path: Location, overrides: Sequence[str] = ()) -> TrainedModel:
        """Put another adapter in the place of this model's, on the same base; this very model, which has changed.

        Between adapters of one form (the same method with the same settings, the same labels) only the tensors of
        the adapter are copied. One network is kept for every form that the model had, with all that is not the base's.
        Arguments and errors are those of :meth:`with_adapter`; after an error the model is as it was.
        """
        same = self._needed_base().load_into(self._built, Path(path), overrides)
        self._opened = same or self.with_adapter(path, overrides)._opened
        others = [one for one in self._built if form_of(one) != form_of(self._opened)]
        self._built = [self._opened, *others]
        return self

    def predictor(self) -> Predictor[Any]:
        """What prepares clouds or scenes and asks the model about them."""
        recipe, device, data = self.recipe, self._device, self.recipe.data

        def context() -> AbstractContextManager[object]:
            return autocast(recipe.training.precision, device)

        if not isinstance(data, SceneDataSettings):
            return ObjectPredictor(self._opened.model, make_preparation(recipe), recipe.seed, device, context)
        reading = SceneReading(
            make_pipeline(recipe),
            data.features,
            Absent(**data.absent.model_dump()) if isinstance(data, FileSceneData) else Absent(),
            data.scale,
            getattr(data, "columns", ()),
        )
        voting = recipe.evaluation.voting == "fragments"
        views = recipe.evaluation.scene_views if voting else None
        return ScenePredictor(self._opened.model, reading, device, context, views)

    def category(self, name: str | None) -> int:
        """The label of a category, 0 where the model is told none.

        Raises:
            UsageError: it is missing, unknown or needless.
        """
        known = self.categories
        if not known:
            if name is not None:
                raise UsageError(f"category {name!r}: the model of {self.source} is not told what a cloud is")
            return 0
        if name not in known:
            what = "a category is missing" if name is None else f"unknown category {name!r}"
            raise UsageError(
                f"{what}: {self.source} labels parts of objects whose category is given",
                f"Known are {', '.join(known)}.",
            )
        return known.index(name)

    def _needed_base(self) -> SharedBase:
        if self._base is None:
            raise UsageError(
                f"{self.source} is merged: it has weights of its own and no base for other adapters",
                "Load the run or the adapter that it was made from.",
            )
        return self._base


def _listed(clouds: Given | Sequence[Given]) -> Sequence[Given]:
    """One as a list of one."""
    if isinstance(clouds, np.ndarray):
        return [clouds] if clouds.ndim == 2 else list(clouds)
    return [clouds] if isinstance(clouds, str | Path | Scene | Mapping) else clouds


def _prepared(predictor: Predictor[Prepared], given: Given, index: int, category: int) -> Prepared:
    if isinstance(given, str | Path):
        return predictor.from_file(Path(given), str(given), category)
    return predictor.from_memory(given, f"{predictor.noun} {index}", category)
