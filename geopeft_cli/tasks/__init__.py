"""Tasks by recipe name."""

from __future__ import annotations

from geopeft_cli.contracts import Task, registered

TASKS = {
    "classification": "geopeft_cli.tasks.classification:Classification",
    "part_segmentation": "geopeft_cli.tasks.segmentation:PartSegmentation",
    "scene_segmentation": "geopeft_cli.tasks.segmentation:SceneSegmentation",
    "voxel_segmentation": "geopeft_cli.tasks.voxel_segmentation:VoxelSegmentation",
}


def task_class(name: str) -> type[Task]:
    """The class behind a recipe name, imported now."""
    found: type[Task] = registered(TASKS[name])
    return found
