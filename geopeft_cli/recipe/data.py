"""The data section of a recipe of objects: one class a format. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geopeft_cli.recipe.types import (
    Count,
    Fraction,
    PositiveCount,
    Section,
    Switch,
    Text,
    mistake,
)

Augmentation = Literal[
    "scale_translate", "rotate_y", "rotate_y_batch", "rotate_z", "scale_small", "scale_shift", "jitter"
]


Normalize = Literal["unit_sphere", "center", "none"]


class DataSettings(Section):
    """How every cloud is prepared, whatever its source.

    ``sampling`` says how ``points`` are drawn from a larger cloud: ``fps_random`` as published (training: farthest
    point sampling to 1.2 x ``points``, then a random choice; testing: farthest point sampling), ``fps`` in both,
    ``random``, or ``with_replacement``, as published for part segmentation, in testing too. A smaller cloud repeats
    points. ``on_error`` says what an unreadable cloud among good ones does.
    """

    points: PositiveCount = 1024
    normalize: Normalize = "unit_sphere"
    sampling: Literal["fps_random", "fps", "random", "with_replacement"] = "random"
    augment: tuple[Augmentation, ...] = ()
    on_error: Literal["stop", "skip"] = "stop"


class ShapesData(DataSettings):
    """The embedded set of parametric everyday objects, made on the fly.

    ``domain`` is ``clean`` (complete surfaces) or ``scan`` (one viewpoint, noise, missing parts, clutter).
    """

    format: Literal["shapes"]
    domain: Literal["clean", "scan"] = "scan"
    train_per_class: PositiveCount = 40
    validation_per_class: Count = 10
    test_per_class: PositiveCount = 20
    seed: Count = 0


class FractionSplit(Section):
    """A split drawn at random, by class, with the recipe's seed."""

    by: Literal["fraction"]
    validation: Fraction = 0.0
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _leaves_training(self) -> FractionSplit:
        if self.validation + self.test >= 1:
            raise mistake("test", f"and validation leave nothing to train on: {self.test} + {self.validation}")
        return self


class FolderSplit(Section):
    """Folders named after the parts: ``train/chair/a.ply`` or ``chair/train/a.ply``."""

    by: Literal["folder"]
    train: Text = "train"
    validation: Text | None = None
    test: Text = "test"


class ListSplit(Section):
    """Text files that list clouds, one path below ``root`` a line, with the class after it or in the folder name."""

    by: Literal["list"]
    train: Text
    validation: Text | None = None
    test: Text


class FieldSplit(Section):
    """A boolean array of a packed file that marks the test clouds; ``validation`` is taken from the rest by class."""

    by: Literal["field"]
    field: Text = "is_test"
    validation: Fraction = 0.0


class FolderData(DataSettings):
    """Clouds and meshes of the user's own, in class folders or named by list files.

    With ``part_names``, the names of the labels of points, every file has to hold such labels.
    """

    format: Literal["folder"]
    root: Text
    part_names: tuple[Text, ...] = ()
    split: Annotated[FractionSplit | FolderSplit | ListSplit, Field(discriminator="by")] = FractionSplit(by="fraction")


class PackedData(DataSettings):
    """One ``.npz`` file: ``points`` (clouds, n, 3) or (sum n, 3) with ``offset``, ``label``, and ``classes``.

    ``point_labels`` in it, with ``part_names``, label the points.
    """

    format: Literal["packed"]
    path: Text
    split: Annotated[FractionSplit | FieldSplit, Field(discriminator="by")] = FractionSplit(by="fraction")


class ScanObjectNNData(DataSettings):
    """The published splits of ScanObjectNN, below ``root`` or in ``h5_files`` there; ``hardest`` is PB-T50-RS.

    Every published result is without normalization. ``validation`` is taken from the training split by class.
    """

    format: Literal["scanobjectnn"]
    root: Text
    variant: Literal["obj_bg", "obj_only", "hardest"]
    validation: Fraction = 0.0
    normalize: Normalize = "none"


class ModelNet40Data(DataSettings):
    """The published splits of ModelNet40; ``root`` is the folder ``modelnet40_normal_resampled``, with 8192 points a
    cloud, or ``modelnet40_ply_hdf5_2048``, with 2048."""

    format: Literal["modelnet40"]
    root: Text
    validation: Fraction = 0.0


class ModelNet10Data(ModelNet40Data):
    """The same for the ten classes of ModelNet10, whose lists are in the same folder."""

    format: Literal["modelnet10"]  # type: ignore[assignment]


class ModelNetFewshotData(DataSettings):
    """A few-shot fold of ModelNet40: ``way`` classes (5, 10) with ``shot`` training clouds (10, 20) each."""

    format: Literal["modelnet_fewshot"]
    root: Text
    way: PositiveCount
    shot: PositiveCount
    fold: Annotated[Count, Field(le=9)] = 0


class ShapeNetPartData(DataSettings):
    """ShapeNetPart; ``root`` is the folder ``shapenetcore_partanno_segmentation_benchmark_v0_normal``.

    Published results train on the training and validation lists together. ``validation: true`` keeps them apart.
    """

    format: Literal["shapenetpart"]
    root: Text
    validation: Switch = False
    points: PositiveCount = 2048


Area = Annotated[PositiveCount, Field(le=6)]


class S3DISBlocksData(DataSettings):
    """Blocks of one by one meter of the rooms of S3DIS; ``root`` is the folder ``stanford_indoor3d``.

    ``test`` measures on random ``blocks``, always the same, or on all points of whole ``rooms``, which ``passes`` says
    how often to go over.
    """

    format: Literal["s3dis_blocks"]
    root: Text
    test_area: Area = 5
    validation_area: Area | None = None
    test: Literal["blocks", "rooms"] = "blocks"
    passes: PositiveCount = 3
    points: PositiveCount = 2048
    normalize: Normalize = "none"

    @model_validator(mode="after")
    def _areas_differ(self) -> S3DISBlocksData:
        if self.validation_area == self.test_area:
            raise mistake("validation_area", f"is {self.test_area}, the test area")
        return self


AnyObjectData = (
    ShapesData
    | FolderData
    | PackedData
    | ScanObjectNNData
    | ModelNet40Data
    | ModelNet10Data
    | ModelNetFewshotData
    | ShapeNetPartData
    | S3DISBlocksData
)
