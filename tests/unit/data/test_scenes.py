"""What a scene is, and what is refused before anything is trained on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geopeft_cli.data.scenes import MemoryScenes, Scene, SomeScenes, checked_scene
from geopeft_cli.errors import DataError


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    normals = np.tile(np.array([0, 0, 1], dtype=np.float32), (20, 1))
    colors = rng.integers(0, 256, (20, 3)).astype(np.float32)
    return Scene("hall", rng.random((20, 3)), rng.integers(-1, 3, 20), colors, normals)


def test_selecting_takes_everything_along(scene: Scene) -> None:
    first = scene.take(np.array([7, 3, 3]))
    assert first.rows is not None
    assert first.rows.tolist() == [7, 3, 3]
    for name in ("coordinates", "labels", "colors", "normals"):
        assert np.array_equal(getattr(first, name), getattr(scene, name)[[7, 3, 3]])
    second = first.take(np.array([False, True, False]))
    assert second.rows is not None
    assert second.rows.tolist() == [3]
    assert second.strength is None


def test_sound_scenes_pass(scene: Scene) -> None:
    assert checked_scene(scene, 3, "file") is scene
    assert checked_scene(replace(scene, normals=np.zeros((20, 3), dtype=np.float32)), 3, "file")
    assert checked_scene(replace(scene, colors=np.zeros((20, 3), dtype=np.float32)), 3, "file")


def with_nan(shape: tuple[int, ...]) -> Any:
    array = np.ones(shape, dtype=np.float32)
    array[4] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coordinates": np.zeros((0, 3)), "labels": np.zeros(0, dtype=np.int64)}, "no points"),
        ({"coordinates": with_nan((20, 3))}, "coordinates of point 4 is NaN"),
        ({"normals": with_nan((20, 3))}, "normals of point 4"),
        ({"colors": np.zeros((19, 3))}, r"colors has the shape \(19, 3\), not \(20, 3\)"),
        ({"strength": np.zeros((20, 2))}, "strength"),
        ({"labels": np.full(20, 3)}, "point 0 has the label 3, not in 0..2 or -1"),
        ({"labels": np.full(20, -2)}, "the label -2"),
        ({"colors": np.full((20, 3), 256.0)}, "colors from 256 to 256"),
        ({"colors": np.full((20, 3), 0.5)}, "as if scaled"),
        ({"normals": np.full((20, 3), 3.0)}, "normal of point 0 has the length 5.2"),
    ],
)
def test_unsound_scenes_are_refused(scene: Scene, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        checked_scene(replace(scene, **change), 3, "file")
    assert caught.value.message.startswith("file: ")
    assert caught.value.hint


def test_parts_of_sets(scene: Scene) -> None:
    scenes = MemoryScenes([replace(scene, name=name) for name in "abc"], ("x", "y", "z"))
    some = SomeScenes(scenes, [2, 0])
    assert some.names == ("c", "a")
    assert [some[index].name for index in range(len(some))] == ["c", "a"]
    assert some.classes == ("x", "y", "z")
