"""From the name of a data format to its scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geopeft_cli.data.scene_fields import Absent, LabelNames
from geopeft_cli.data.scene_protocols import LimitedPoints, limited_scenes, read_limited_points
from geopeft_cli.data.scenes import KeptScenes, Memory, RescaledScenes, SceneSet, SceneSplits
from geopeft_cli.errors import UsageError

FORMATS = (
    *("rooms", "s3dis", "scannet", "scannet200", "scannetpp"),
    *("s3dis_rooms", "semantic_kitti", "scene_files", "packed_scenes"),
)


def scene_splits_for(
    format: str,
    *,
    seed: int,
    absent: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    **values: Any,
) -> SceneSplits:
    """The parts of the set of scenes that a recipe's data section describes.

    Args:
        format: one of ``FORMATS``.
        seed: of what is drawn at random.
        absent: fields of :class:`Absent`.
        labels: fields of :class:`LabelNames`.
        values: the further arguments of that format's function, such as ``packed_scene_splits``.

    Raises:
        UsageError: an unknown format, or a mistake in the values.
        DataError: files that cannot be used.
    """
    if format == "rooms":
        from geopeft_cli.data.rooms import rooms_splits

        return rooms_splits(seed=seed, **values)
    stand_ins = Absent(**(absent or {}))
    if format in ("s3dis", "scannet", "scannet200", "scannetpp"):
        from geopeft_cli.data.pointcept_scenes import published_scene_splits

        return published_scene_splits(name=format, absent=stand_ins, **values)
    if format == "s3dis_rooms":
        from geopeft_cli.data.s3dis_scenes import s3dis_scene_splits

        return s3dis_scene_splits(absent=stand_ins, **values)
    if format == "semantic_kitti":
        from geopeft_cli.data.semantic_kitti import kitti_splits

        return kitti_splits(**values)
    if format == "scene_files":
        from geopeft_cli.data.scene_files import scene_file_splits

        return scene_file_splits(labels=LabelNames(**(labels or {})), absent=stand_ins, seed=seed, **values)
    if format == "packed_scenes":
        from geopeft_cli.data.packed_scenes import packed_scene_splits

        return packed_scene_splits(labels=LabelNames(**(labels or {})), absent=stand_ins, seed=seed, **values)
    raise UsageError(f"data.format: unknown {format!r}", f"Use {', '.join(FORMATS)}.")


def in_meters(splits: SceneSplits, scale: float) -> SceneSplits:
    """The same with coordinates times ``scale``, kept in memory while there is room for all parts together."""
    memory = Memory()

    def changed(scenes: SceneSet) -> SceneSet:
        return KeptScenes(scenes if scale == 1 else RescaledScenes(scenes, scale), memory)

    validation = None if splits.validation is None else changed(splits.validation)
    return SceneSplits(changed(splits.train), validation, changed(splits.test))


def limited(splits: SceneSplits, scenes: str | None, points: str | None) -> SceneSplits:
    """With less to learn from, where these files are given; see :mod:`geopeft_cli.data.scene_protocols`.

    Raises:
        DataError: a file is missing or damaged, or is for another set.
    """
    train: SceneSet = splits.train
    if scenes is not None:
        train = limited_scenes(train, scenes)
    if points is not None:
        train = LimitedPoints(train, read_limited_points(points))
    return replace(splits, train=train)
