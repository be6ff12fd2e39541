"""One submanifold convolution 3 x 3 x 3 over the surfaces of a room: ours, and spconv's on a CPU where it is installed.

    python tests/benchmarks/sparse_convolution.py [voxels] [channels ...]

Forward passes of the two are timed turn by turn, on one thread, since spconv's CPU build is wrong with two; it has no
backward pass there. The map of neighbors is made once for all layers of a stage, and timed by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter

import torch
from pairs import compare
from torch import Tensor

from geopeft_cli.geometry.sparse_convolution import NeighborMap, neighbor_map, submanifold_convolution

ROUNDS = 7
EXTENT = 200  # voxels along the walls


def room(count: int) -> Tensor:
    """Voxels (count, 3) of a floor, two walls and the tops and sides of boxes, scanned with noise, in random order."""
    generator = torch.Generator().manual_seed(0)
    surfaces = [((0, 0, 0), (EXTENT, EXTENT, 0), 6), ((0, 0, 0), (EXTENT, 0, 90), 3), ((0, 0, 0), (0, EXTENT, 90), 3)]
    for _ in range(8):
        corner = (torch.rand(3, generator=generator) * torch.tensor([120.0, 120.0, 0.0])).round().tolist()
        sides = (20 + 30 * torch.rand(3, generator=generator)).round().tolist()
        for axis in range(3):
            start = [at + sides[axis] * (other == axis) for other, at in enumerate(corner)]
            surfaces.append((tuple(start), tuple(0 if other == axis else side for other, side in enumerate(sides)), 1))
    points = []
    for start, sides, share in surfaces:
        rows = torch.rand(20_000 * share, 3, generator=generator) * torch.tensor(sides, dtype=torch.float32)
        points.append(rows + torch.tensor(start) + 0.15 * torch.randn(rows.shape, generator=generator))
    voxels = torch.cat(points).round().long().unique(dim=0)
    voxels = voxels - voxels.amin(0)
    near = voxels.square().sum(1).argsort(stable=True)[:count]
    return voxels[near[torch.randperm(len(near), generator=generator)]]


def spconv_forward(voxels: Tensor, x: Tensor, weight: Tensor) -> Callable[[], Tensor] | None:
    try:
        import spconv.pytorch as spconv
    except ImportError:
        return None
    layer = spconv.SubMConv3d(x.shape[1], weight.shape[0], 3, bias=False, indice_key="room")
    with torch.no_grad():
        layer.weight.copy_(weight)
        indices = torch.cat([torch.zeros(len(voxels), 1), voxels], dim=1).int()
        shape = (voxels.amax(0) + 96).tolist()
        filled = layer(spconv.SparseConvTensor(x, indices, shape, 1)).replace_feature(x)  # holds the pairs
    return torch.no_grad()(lambda: layer(filled).features)


def times(voxels: Tensor, neighbors: NeighborMap, channels: int) -> str:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(len(voxels), channels, generator=generator)
    weight = torch.randn(channels, 3, 3, 3, channels, generator=generator) / channels

    def forward() -> Tensor:
        with torch.no_grad():
            return submanifold_convolution(x, weight, None, neighbors)

    def step(*trained: Tensor) -> None:
        for tensor in (x, weight):
            tensor.requires_grad_(any(tensor is one for one in trained))
        submanifold_convolution(x, weight, None, neighbors).sum().backward()

    theirs = spconv_forward(voxels, x, weight)
    found = compare({"spconv": theirs, "ours": forward} if theirs else {"ours": forward}, ROUNDS)
    words = [f"{channels:>5}", f"{found['ours'][0]:8.3f} s"]
    if theirs:
        error = float((theirs() - forward()).abs().max())
        words.append(f"{found['spconv'][0]:8.3f} s {found['ours'][1]:6.2f} x {error:9.1e}")
    else:
        words.append(f"{'no spconv':>28}")
    steps = compare({"frozen": lambda: step(x), "trained": lambda: step(x, weight)}, 2)
    return "  ".join([*words, *(f"{steps[name][0]:8.3f} s" for name in ("frozen", "trained"))])


def main(count: int, channels: list[int]) -> None:
    torch.set_num_threads(1)
    voxels = room(count)
    start = perf_counter()
    neighbors = neighbor_map(voxels, torch.tensor([0, len(voxels)]), 3)
    seconds = perf_counter() - start
    pairs, size = len(neighbors.source), 8 * len(neighbors.source) / len(voxels)
    print(f"{len(voxels)} voxels, {1 + 2 * pairs / len(voxels):.1f} neighbors each, themselves included")
    print(f"map {seconds:.3f} s, {size:.0f} bytes a voxel")
    print("channels  forward     spconv  ours / it  difference   step, frozen weight, and trained")
    for one in channels:
        print(times(voxels, neighbors, one), flush=True)


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(arguments[0] if arguments else 50_000, arguments[1:] or [32, 48, 96, 192])
