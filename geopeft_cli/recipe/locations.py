"""Make a recipe independent of the directory that it was started in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from geopeft_cli.recipe.data import AnyObjectData, ListSplit
from geopeft_cli.recipe.scene_data import AnySceneData
from geopeft_cli.recipe.schema import Recipe


def resolve_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths: relative ones start at the current directory, ``~`` is the home directory.

    Lists of a split stay as they are: they are relative to ``data.root``.
    """
    backbone = recipe.backbone
    if is_local(backbone.checkpoint):
        backbone = backbone.model_copy(update={"checkpoint": _absolute(backbone.checkpoint)})
    return recipe.model_copy(update={"data": _resolve_data(recipe.data), "backbone": backbone})


def is_local(checkpoint: str) -> bool:
    """Whether a checkpoint is a path, not an address (``https://``, ``hf://``) or ``embedded:NAME``."""
    return "://" not in checkpoint and not checkpoint.startswith("embedded:")


def _resolve_data(data: AnyObjectData | AnySceneData) -> AnyObjectData | AnySceneData:
    paths = ("root", "path", "limited_scenes", "limited_points")
    given = {key: getattr(data, key, None) for key in paths}
    update: dict[str, Any] = {key: _absolute(path) for key, path in given.items() if path is not None}
    split = getattr(data, "split", None)
    if isinstance(split, ListSplit):
        lists = {part: getattr(split, part) for part in ("train", "validation", "test")}
        homes = {part: os.path.expanduser(path) for part, path in lists.items() if path is not None}
        update["split"] = split.model_copy(update=homes)
    return data.model_copy(update=update)


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())
