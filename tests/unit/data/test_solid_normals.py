"""Normals of parametric solids: outside is on the side that they point to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geopeft_cli.data.shapes import MAKERS
from geopeft_cli.data.solid_normals import outward_normals, part_normals
from geopeft_cli.data.solids import Box, Ellipsoid, Prism, Revolution, Solid, ring, shell

L_SHAPE = np.array([(0, 0), (2, 0), (2, 1), (1, 1), (1, 3), (0, 3)], dtype=float)
SOLIDS: dict[str, Solid] = {
    "box": Box((1, 2, 3)),
    "ellipsoid": Ellipsoid((0.5, 1, 2)),
    "cone": Revolution(np.array([(0, 0), (1, 0), (0, 2.0)])),
    "clockwise": Revolution(np.array([(0, 0), (1, 0), (0, 2.0)])[::-1]),
    "half turn": Revolution(L_SHAPE + np.array((0.5, 0)), math.pi),
    "torus": ring(1.0, 0.2),
    "vessel": shell([(0.3, 0), (0.5, 1)], 0.05),
    "prism": Prism(L_SHAPE, 0.7),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_a_step_along_the_normal_leaves_the_solid(name: str) -> None:
    solid = SOLIDS[name]
    points = solid.sample(500, np.random.default_rng(0))
    normals = outward_normals(solid, points)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    step = 1e-5 * normals
    # next to an edge a step may miss
    assert (~solid.contains(points + step)).mean() > 0.99
    assert solid.contains(points - step).mean() > 0.99


@pytest.mark.parametrize("name", MAKERS)
def test_parts_of_objects_have_normals_in_their_places(name: str) -> None:
    rng = np.random.default_rng(1)
    for part in MAKERS[name](rng):
        points = part.sample(50, rng)
        step = 1e-6 * part_normals(part, points)
        assert (~part.contains(points + step)).mean() > 0.9
        assert part.contains(points - step).mean() > 0.9


def test_unknown_solids_are_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        outward_normals(3, np.zeros((1, 3)))  # type: ignore[arg-type]
