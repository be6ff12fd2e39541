"""Splits as a recipe wants them."""

from __future__ import annotations

import numpy as np

from geopeft_cli.data.scene_sources import in_meters
from geopeft_cli.data.scenes import KeptScenes, Memory, MemoryScenes, RescaledScenes, Scene, SceneSplits

SCENES = MemoryScenes([Scene(f"s{at}", np.ones((4, 3)), np.zeros(4, dtype=np.int64)) for at in range(2)], ["floor"])
SIZE = 4 * 3 * 8 + 4 * 8


def test_sets_keep_what_fits_into_the_memory_that_they_share() -> None:
    memory = Memory(room=2 * SIZE)
    train, test = (KeptScenes(RescaledScenes(SCENES, 1.0), memory) for _ in range(2))
    first, second, third = train[0], test[0], train[1]
    assert train[0] is first
    assert test[0] is second
    assert train[1] is not third
    assert memory.room == 0


def test_scenes_in_meters_are_kept() -> None:
    splits = in_meters(SceneSplits(SCENES, None, SCENES), 0.5)
    scene = splits.train[0]
    assert scene.coordinates.max() == 0.5
    assert splits.train[0] is scene
    assert splits.validation is None
