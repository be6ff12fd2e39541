"""From what a file holds for its points, under whatever names, to a scene."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import IGNORED
from geopeft_cli.data.formats.fields import Fields
from geopeft_cli.data.scenes import Float32, Int64, Mask, Scene
from geopeft_cli.errors import DataError, UsageError

logger = logging.getLogger("geopeft")

_COORDINATES = ("coordinates", "coord", "coords", "points", "xyz", "position", "positions", "data")
_COLORS = ("colors", "color", "rgb", "colours", "colour")
_COLOR_AXES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
_NORMALS = ("normals", "normal")
_NORMAL_AXES = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"))
_STRENGTH = ("strength", "intensity", "remission", "reflectance", "scalar_intensity")
_LABELS = (
    *("label", "labels", "segment", "semantic", "semantic_label", "class", "classification"),
    *("scalar_label", "scalar_classification", "scalar_class", "point_labels"),
)


@dataclass(frozen=True)
class LabelNames:
    """How the labels of files become indices into classes.

    Attributes:
        classes: their names, in order.
        field: which field of the files holds labels, in any case of letters; None for the first usual name.
        values: the label in files of each class, one or several a class; None where they are the indices already.
        others: the class of all labels that ``values`` does not name; None for the ignored label.
        required: False where files may lack labels; all points are then ignored.
    """

    classes: tuple[str, ...]
    field: str | None = None
    values: Mapping[str, Sequence[int]] | None = None
    others: str | None = None
    required: bool = True

    def __post_init__(self) -> None:
        """Refuse values and others of classes that do not exist, or of two classes.

        Raises:
            UsageError: names the class or the value.
        """
        values = self.values or {}
        unknown = sorted({*values, *([self.others] if self.others else [])} - set(self.classes))
        if unknown or not self.classes:
            told = ", ".join(unknown) or "none given"
            raise UsageError(f"data.labels: unknown classes: {told}", f"The classes are {', '.join(self.classes)}.")
        told_values = [value for own in values.values() for value in own]
        if len(set(told_values)) < len(told_values):
            twice = sorted({value for value in told_values if told_values.count(value) > 1})
            raise UsageError(f"data.labels: values of two classes: {', '.join(map(str, twice))}")

    def indices(self, found: npt.NDArray[np.generic], where: str) -> Int64:
        """Labels of a file, (n,), as indices into ``classes`` or ``IGNORED``.

        Raises:
            DataError: they are not whole numbers.
        """
        found = found[:, 0] if found.ndim == 2 else found
        if found.dtype.kind not in "iufb" or found.ndim != 1:
            raise DataError(f"{where}: labels are {found.dtype} {found.shape}", "Save one whole number a point.")
        with np.errstate(invalid="ignore"):  # of NaN, which is refused
            labels = found.astype(np.int64)
        if found.dtype.kind == "f" and bool((labels != found).any()):
            raise DataError(f"{where}: labels are not whole numbers", "Name the field with the labels.")
        if not self.values:
            return labels
        mapped = np.full(len(labels), self.classes.index(self.others) if self.others else IGNORED, dtype=np.int64)
        for name, values in self.values.items():
            mapped[np.isin(labels, np.asarray(values))] = self.classes.index(name)
        return mapped


@dataclass(frozen=True)
class Absent:
    """What stands in for colors and normals that a file lacks: ``zeros``, ``estimate`` (normals alone), or ``none``."""

    colors: Literal["zeros", "none"] = "zeros"
    normals: Literal["zeros", "estimate", "none"] = "estimate"


def scene_of_fields(name: str, fields: Fields, labels: LabelNames | None, where: str) -> Scene:
    """The scene in the fields of a file, without points that have a NaN or infinite coordinate.

    Args:
        name: of the scene.
        fields: (n,) or (n, k) each, by name; names count in any case of letters.
        labels: how labels are found and mapped; None for a scene whose points are all ignored.
        where: the file, for messages.

    Raises:
        DataError: no coordinates, no labels where they are required, fields of different lengths, or no finite point.
    """
    fields = {key.lower(): value for key, value in fields.items()}
    coordinates = _columns(fields, _COORDINATES, (("x", "y", "z"),), where)
    if coordinates is None:
        raise DataError(f"{where}: has no x, y, z, only {', '.join(fields)}", f"Or {', '.join(_COORDINATES)} (n, 3).")
    if coordinates.dtype.kind not in "fiu":
        raise DataError(f"{where}: coordinates are {coordinates.dtype}, not numbers", "Save them as floats.")
    strength = next((fields[key] for key in _STRENGTH if key in fields), None)
    colors, normals = _columns(fields, _COLORS, _COLOR_AXES, where), _columns(fields, _NORMALS, _NORMAL_AXES, where)
    found = None if labels is None else _labels(fields, labels, where)
    count = len(coordinates)
    for what, array in {"colors": colors, "normals": normals, "labels": found, "strength": strength}.items():
        if array is not None and len(array) != count:
            raise DataError(f"{where}: {what} of {len(array)} points for {count} coordinates", "Export it again.")
    wide = np.promote_types(coordinates.dtype, np.float32)
    scene = Scene(
        name,
        coordinates.astype(wide),
        np.full(count, IGNORED, dtype=np.int64) if labels is None or found is None else labels.indices(found, where),
        _single(colors),
        _single(normals),
        None if strength is None else strength.astype(np.float32).reshape(count, -1),
    )
    return _finite(scene, where)


def completed(scene: Scene, absent: Absent, neighbors: int = 16) -> Scene:
    """The scene with colors and normals for those that it lacks.

    Estimated normals are those of the planes through the nearest points, and face the middle of the scene, as those of
    a room seen from inside do.

    Args:
        scene: any.
        absent: what stands in for them.
        neighbors: of which normals are estimated, the point itself among them.

    Raises:
        MissingDependencyError: normals are to be estimated and open3d does not load.
    """
    zeros = np.zeros((len(scene), 3), dtype=np.float32)
    if scene.colors is None and absent.colors == "zeros":
        scene = replace(scene, colors=zeros)
    if scene.normals is None and absent.normals != "none":
        normals = zeros if absent.normals == "zeros" else _estimated(scene, neighbors)
        scene = replace(scene, normals=normals)
    return scene


def _estimated(scene: Scene, neighbors: int) -> Float32:
    from geopeft_cli.data.formats.open3d_bridge import estimated_normals

    if len(scene) < 3:
        return np.zeros((len(scene), 3), dtype=np.float32)
    low = scene.coordinates.min(axis=0).astype(np.float64)
    points = scene.coordinates - low
    normals: Float32 = estimated_normals(points, neighbors, points.max(axis=0) / 2).astype(np.float32)
    return normals


def _labels(fields: Fields, labels: LabelNames, where: str) -> npt.NDArray[np.generic] | None:
    names = _LABELS if labels.field is None else (labels.field.lower(),)
    found = next((fields[key] for key in names if key in fields), None)
    if found is None and labels.required:
        raise DataError(f"{where}: has no field {names[0]!r}, only {', '.join(fields)}", "Set data.labels.field.")
    return found


def _columns(
    fields: Fields, together: Sequence[str], apart: Sequence[Sequence[str]], where: str
) -> npt.NDArray[np.generic] | None:
    """An array (n, 3) under one of the names ``together``, or three (n,) under names of ``apart``."""
    for axes in apart:
        if all(axis in fields for axis in axes):
            lengths = {len(fields[axis]) for axis in axes}
            if len(lengths) > 1:
                raise DataError(f"{where}: {', '.join(axes)} are not of one length", "Export it again.")
            return np.stack([fields[axis] for axis in axes], axis=1)
    for key in together:
        if key in fields and fields[key].ndim == 2 and fields[key].shape[1] >= 3:
            return fields[key][:, :3]
    return None


def _single(array: npt.NDArray[np.generic] | None) -> Float32 | None:
    return None if array is None else array.astype(np.float32)


def _finite(scene: Scene, where: str) -> Scene:
    finite: Mask = np.asarray(np.isfinite(scene.coordinates).all(axis=1))
    if not finite.any():
        raise DataError(f"{where}: holds no points, or none that is finite", "Remove it from the data set.")
    if finite.all():
        return scene
    left_out = np.count_nonzero(~finite)
    logger.info("%s: left out %d of %d points that are NaN or infinite", where, left_out, len(finite))
    # rows tell which points of the file remain
    return scene.take(finite)
