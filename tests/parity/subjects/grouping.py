"""Farthest point sampling and nearest neighbors on awkward clouds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import torch

from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.geometry.sampling import farthest_point_sample
from parity.golden_set import GoldenSet
from parity.subjects import Output

FILE = "io.safetensors"


def run(golden: GoldenSet) -> Iterator[Output]:
    names = golden.stored[FILE]
    for case, sizes in golden.cases().items():
        points = torch.from_numpy(golden.input(case))
        rules: tuple[tuple[str, Literal["skip", "keep"]], ...] = (("fps", "skip"), ("fps_without_quirk", "keep"))
        for output, near_origin in rules:
            yield Output(FILE, f"{case}.{output}", farthest_point_sample(points, sizes["m"], near_origin))
        centers = points.take_along_dim(farthest_point_sample(points, sizes["m"])[..., None], dim=1)
        for name in names:
            found = re.fullmatch(rf"{re.escape(case)}\.knn(\d+)", name)
            if found:
                index, squared = nearest_neighbors(points, centers, int(found[1]))
                yield Output(FILE, name, index)
                yield Output(FILE, f"{name}_dist", squared.sqrt())
