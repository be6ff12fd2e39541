"""The data section of a recipe of scenes: one class a format. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from geopeft_cli.recipe.data import Area, FolderSplit, FractionSplit, ListSplit
from geopeft_cli.recipe.types import (
    Count,
    Fraction,
    NonNegativeNumber,
    PositiveCount,
    PositiveNumber,
    Section,
    Switch,
    Text,
    mistake,
)

Feature = Literal["coordinates", "colors", "normals", "strength"]
Share = Annotated[PositiveNumber, Field(le=1)]
Probability = Annotated[NonNegativeNumber, Field(le=1)]


class DropoutSettings(Section):
    """``share`` of the points of a training scene is left out with ``probability``."""

    share: Fraction = 0.2
    probability: Probability = 1.0


class CropSettings(Section):
    """A ball of a training scene: first ``share`` of its voxels, where given, then no more than ``voxels``."""

    share: Share | None = None
    voxels: PositiveCount = 102_400


class Mix3DSettings(Section):
    """Pairs of training scenes become one, for all of a batch or none. ``grid: recompute`` counts their voxels anew."""

    probability: Probability = 0.8
    grid: Literal["released", "recompute"] = "released"


class AbsentSettings(Section):
    """What stands in for colors and normals that a file lacks; ``estimate`` fits planes to neighbors."""

    colors: Literal["zeros", "none"] = "zeros"
    normals: Literal["zeros", "estimate", "none"] = "estimate"


class SceneDataSettings(Section):
    """How scenes are prepared, whatever their source.

    ``scale`` multiplies all coordinates first: the factor from the data's unit to meters. ``grid`` is the edge of a
    voxel in meters, of which one point is taken. ``test_grid`` is that of finer voxels, of which one point is kept
    before votes by fragments; the others take its label. ``features`` are what the network reads of a voxel, in this
    order. ``augment`` is a published order of changes in training: ``indoor`` (rotation, scale, flip, jitter,
    ``elastic``, colors), ``lidar`` (whole frames within a box around the sensor), or ``none``. ``repeat`` counts
    passes over the training scenes in an epoch. ``limited_scenes`` names a list of the scenes to train on,
    ``limited_points`` a file with the few points of each that keep their label.
    """

    scale: PositiveNumber = 1.0
    grid: PositiveNumber = 0.02
    test_grid: PositiveNumber | None = None
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = ("coordinates", "colors", "normals")
    augment: Literal["indoor", "lidar", "none"] = "indoor"
    elastic: Switch = True
    dropout: DropoutSettings = DropoutSettings()
    crop: CropSettings = CropSettings()
    mix3d: Mix3DSettings | None = None
    repeat: PositiveCount = 1
    limited_scenes: Text | None = None
    limited_points: Text | None = None

    @model_validator(mode="after")
    def _features_differ(self) -> SceneDataSettings:
        if len(set(self.features)) < len(self.features):
            raise mistake("features", "names one twice")
        return self

    @model_validator(mode="after")
    def _crops_happen(self) -> SceneDataSettings:
        if self.augment == "lidar" and self.crop != CropSettings():
            raise mistake("crop", "has no meaning with augment: lidar, which takes whole frames")
        return self


class RoomsData(SceneDataSettings):
    """The embedded set of furnished rooms, made on the fly.

    ``domain`` is ``clean`` (complete surfaces of tidy rooms) or ``scan`` (lived-in rooms as scanners see them).
    ``points`` is how many a room has.
    """

    format: Literal["rooms"]
    domain: Literal["clean", "scan"] = "scan"
    train: PositiveCount = 24
    validation: Count = 4
    test: PositiveCount = 8
    points: PositiveCount = 20_000
    seed: Count = 0


class FileSceneData(SceneDataSettings):
    """Scenes that are read from files."""

    absent: AbsentSettings = AbsentSettings()


class PublishedSceneData(FileSceneData):
    """A published set in the folders that Pointcept's preparation writes; ``root`` holds its splits.

    ``train`` and ``test`` name other splits than the usual ones, for example five areas of S3DIS.
    """

    format: Literal["s3dis", "scannet", "scannet200", "scannetpp"]
    root: Text
    train: tuple[Text, ...] = ()
    test: tuple[Text, ...] = ()


class S3DISRoomsData(FileSceneData):
    """S3DIS as given out, or as ``stanford_indoor3d``; without normals, which are estimated."""

    format: Literal["s3dis_rooms"]
    root: Text
    test_area: Area = 5


class SemanticKITTIData(SceneDataSettings):
    """SemanticKITTI as given out; ``root`` holds ``dataset/sequences``."""

    format: Literal["semantic_kitti"]
    root: Text
    grid: PositiveNumber = 0.05
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = ("coordinates", "strength")
    augment: Literal["indoor", "lidar", "none"] = "lidar"


class LabelSettings(Section):
    """How labels in files become classes.

    ``field`` is where they are, by default the first usual name; ``values`` are the labels in files of each class,
    by default its index; ``others`` is the class of all labels that ``values`` does not name, by default they are
    ignored.
    """

    classes: Annotated[tuple[Text, ...], Field(min_length=1)]
    field: Text | None = None
    values: Mapping[str, tuple[int, ...]] | None = None
    others: Text | None = None

    @model_validator(mode="after")
    def _classes_are_known(self) -> LabelSettings:
        if len(set(self.classes)) < len(self.classes):
            raise mistake("classes", "names one twice")
        for key, names in (("values", tuple(self.values or ())), ("others", (self.others,) if self.others else ())):
            unknown = [name for name in names if name not in self.classes]
            if unknown:
                raise mistake(key, f"names {unknown[0]!r}, which is not among the classes")
        return self


class SceneFilesData(FileSceneData):
    """A file a scene, below ``root``. ``columns`` names the columns of files that do not."""

    format: Literal["scene_files"]
    root: Text
    labels: LabelSettings
    columns: tuple[Text, ...] = ()
    split: Annotated[FractionSplit | FolderSplit | ListSplit, Field(discriminator="by")] = FractionSplit(by="fraction")


class NameSplit(Section):
    """Parts by the beginning of the names of scenes."""

    by: Literal["name"]
    train: Text
    validation: Text | None = None
    test: Text


class PackedScenesData(FileSceneData):
    """Many scenes in one ``.npz`` file: ``points`` (all points, 3) with ``offset``, labels, colors, normals."""

    format: Literal["packed_scenes"]
    path: Text
    labels: LabelSettings
    split: Annotated[FractionSplit | NameSplit, Field(discriminator="by")] = FractionSplit(by="fraction")


AnySceneData = RoomsData | PublishedSceneData | S3DISRoomsData | SemanticKITTIData | SceneFilesData | PackedScenesData


def has_validation(data: SceneDataSettings) -> bool:
    """Whether the section asks for a validation split."""
    if isinstance(data, RoomsData):
        return data.validation > 0
    return isinstance(data, SceneFilesData | PackedScenesData) and bool(data.split.validation)
