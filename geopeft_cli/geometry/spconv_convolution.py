"""The submanifold convolution by spconv (Yan et al., Sensors 2018; github.com/traveller59/spconv), which is optional.

Weights have the same layout, so that nothing is converted. Pairs of neighbors are found once for a level and a kernel,
here too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from geopeft_cli.contracts import VoxelLevel
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.clusters import Clusters, clusters_of
from geopeft_cli.geometry.precision import full_precision
from geopeft_cli.geometry.voxels import lowest_voxels, scene_index, voxel_keys


def load_spconv() -> Any:
    """The module ``spconv.pytorch``.

    Raises:
        UsageError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module("spconv.pytorch")
    except ImportError as error:
        raise UsageError(
            f"backbone.convolution: spconv does not load: {error}",
            "pip install spconv-cu126 for CUDA 12, or use backbone.convolution=torch.",
        ) from error


def spconv_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, level: VoxelLevel) -> Tensor:
    """As :func:`geopeft_cli.geometry.sparse_convolution.submanifold_convolution`, over the voxels of a level.

    Products are in float16 under an autocast to it, otherwise in float32.

    Raises:
        UsageError: spconv is not there, or a gradient is asked for on a CPU, where it has none.
    """
    has_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if x.device.type == "cpu" and has_gradient:
        raise UsageError(
            "backbone.convolution: spconv has no backward pass on a CPU",
            "Train with backbone.convolution=torch, whose weights are the same.",
        )
    precision = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    products = precision if precision == torch.float16 and x.is_cuda else torch.float32
    rows = level.memo("spconv", lambda: _rows_of(level))
    with full_precision(x.device):
        x, weight = x.to(products), weight.to(products)
        y = rows.convolved(x if rows.twins is None else x[rows.twins.first], weight)
        if rows.twins is not None:
            middle = weight.shape[1] // 2
            apart = x - rows.twins.spread(x[rows.twins.first])  # every row is its own center
            y = rows.twins.spread(y) + F.linear(apart, weight[:, middle, middle, middle])
        return (y if bias is None else y + bias).to(precision)


@dataclass(frozen=True)
class _Rows:
    """The voxels of a level as spconv wants them.

    Attributes:
        places: int32 (V, 4), scene and voxel, every voxel once.
        extent: voxels along each axis.
        scenes: how many there are.
        pairs: what spconv has found, by kernel.
        twins: the rows of every voxel, where some share one.
    """

    places: Tensor
    extent: list[int]
    scenes: int
    pairs: dict[str, Any]
    twins: Clusters | None

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """(V, in) -> (V, out)."""
        outputs, kernel, _, _, inputs = weight.shape
        spconv = load_spconv()
        layer = _layer(spconv, inputs, outputs, kernel, x.device.type)
        given = spconv.SparseConvTensor(x, self.places, self.extent, self.scenes, indice_dict=self.pairs)
        with _one_thread(x.device):
            found = functional_call(layer, {"weight": weight}, (given,))
        self.pairs.update(found.indice_dict)
        features: Tensor = found.features
        return features


def _rows_of(level: VoxelLevel) -> _Rows:
    voxels, scene = level.voxels.long(), scene_index(level.offsets)
    keys = voxel_keys(voxels, level.offsets).keys
    twins = clusters_of(keys)
    places = torch.cat([scene[:, None], voxels - lowest_voxels(voxels, level.offsets)], dim=1).int()
    has_twins = len(twins.counts) < len(keys)
    places = places[twins.first] if has_twins else places
    extent = [int(edge) + 1 for edge in places[:, 1:].amax(0)]
    return _Rows(places, extent, len(level.offsets) - 1, {}, twins if has_twins else None)


@cache
def _layer(spconv: Any, inputs: int, outputs: int, kernel: int, device: str) -> nn.Module:
    """A layer without values of its own; there is one algorithm for all on a CPU."""
    algorithm = spconv.ConvAlgo.Native if device == "cpu" else None
    with torch.device("meta"):
        layer: nn.Module = spconv.SubMConv3d(
            inputs, outputs, kernel, bias=False, indice_key=f"kernel {kernel}", algo=algorithm
        )
    return layer


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU spconv adds to the same rows from several threads at once."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
