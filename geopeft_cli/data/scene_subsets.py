"""Named ways to leave out points of a scene, as Pointcept's recipes for scenes do."""

from __future__ import annotations

import numpy as np

from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import UsageError


def random_dropout(scene: Scene, generator: np.random.Generator, ratio: float = 0.2, probability: float = 0.5) -> Scene:
    """With ``probability``, keep int(n (1 - ratio)) random points in random order, at least one.

    Points that have to be kept are added to these, and all are then in their own order.
    """
    if generator.random() >= probability:
        return scene
    chosen = generator.permutation(len(scene))[: max(1, int(len(scene) * (1 - ratio)))]
    if scene.kept is not None:
        chosen = np.union1d(chosen, np.flatnonzero(scene.kept))
    return scene.take(chosen)


def sphere_crop(
    scene: Scene, generator: np.random.Generator, most: int | None = None, share: float | None = None
) -> Scene:
    """Around a random point keep the ``most`` nearest points, or int(share n) of them and one at least, nearest first.

    A scene with no more points stays as it is.

    Raises:
        UsageError: neither or both of ``most`` and ``share`` are given, or leave no point.
    """
    if (most is None) == (share is None):
        raise UsageError("sphere_crop: give either a number of points or a share of them")
    if not (share or most or 0) > 0:
        raise UsageError(f"sphere_crop: {most if share is None else share} of the points", "Keep one at least.")
    count = most or max(1, int((share or 0) * len(scene)))
    middle = scene.coordinates[generator.integers(len(scene))]
    if len(scene) <= count:
        return scene
    apart = (scene.coordinates - middle).astype(np.float64)
    distances = np.einsum("ij,ij->i", apart, apart)
    return scene.take(np.argsort(distances, kind="stable")[:count])
