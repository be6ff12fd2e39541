"""Space-filling curves through voxels: the order in which a serialized transformer reads a scene.

The Hilbert code is that of Skilling, "Programming the Hilbert curve", 2004.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.geometry.voxels import require_voxels, scene_index

Curve = Literal["z", "z-trans", "hilbert", "hilbert-trans"]
CURVES: tuple[Curve, ...] = get_args(Curve)
MOST_BITS = 20  # an axis, of a code with room for a sign and two scenes


def curve_depths(voxels: Tensor, offsets: Tensor) -> Tensor:
    """How many bits the voxel numbers of every scene need along an axis, at least 1, int64 (scenes,).

    One more than they need where the highest is 2^k - 1, as in the released code; Hilbert orders notice.

    Raises:
        ShapeError: as :func:`geopeft_cli.geometry.voxels.require_voxels` does.
        DataError: a voxel number is negative or needs more than 20 bits.
    """
    require_voxels(voxels, offsets)
    voxels = voxels.long()
    if len(voxels) and int(voxels.min()) < 0:
        raise DataError(
            f"the lowest voxel number is {int(voxels.min())}", "Count voxels from the lowest of each scene."
        )
    highest = voxels.new_zeros(len(offsets) - 1).scatter_reduce_(0, scene_index(offsets), voxels.amax(1), "amax")
    if len(highest) and int(highest.max()) + 1 >= 2**MOST_BITS:
        scene = int(highest.argmax())
        raise DataError(
            f"scene {scene} of the batch reaches voxel number {int(highest[scene])}; curves take up to "
            f"{2**MOST_BITS - 2} along an axis",
            "Count voxels from the lowest of each scene, use a coarser grid, or remove outliers far from the scene.",
        )
    powers = 2 ** torch.arange(MOST_BITS + 1, device=voxels.device)
    return torch.searchsorted(powers, highest + 1, right=True)


def curve_codes(voxels: Tensor, depth: Tensor | int, curve: str) -> Tensor:
    """The place of every voxel along a curve, int64 (N,).

    Args:
        voxels: whole numbers (N, 3), less than 2^depth.
        depth: bits an axis, for all or for every voxel (N,).
        curve: ``z``, ``hilbert``, or one of them with x and y exchanged, ``-trans``.

    Raises:
        UsageError: no such curve.
    """
    if curve not in CURVES:
        raise UsageError(f"no curve {curve!r}", f"There is: {', '.join(CURVES)}.")
    axes = list(voxels.long().unbind(1))
    if curve.endswith("-trans"):
        axes[0], axes[1] = axes[1], axes[0]
    if curve.startswith("z"):
        return _interleaved(axes)
    depth = torch.as_tensor(depth, device=voxels.device)
    deepest = int(depth.max()) if depth.numel() else 0
    for level in range(deepest - 1, -1, -1):
        below = torch.where(level < depth, 2**level - 1, 0)
        for axis in range(3):
            is_set = (axes[axis] >> level & 1).bool()
            exchanged = (axes[0] ^ axes[axis]) & below
            axes[0] = axes[0] ^ torch.where(is_set, below, exchanged)
            if axis:
                axes[axis] = axes[axis] ^ exchanged.masked_fill(is_set, 0)
    code = _interleaved(axes)
    for shift in (1, 2, 4, 8, 16, 32):  # from Gray code to binary, over the whole word
        code = code ^ code >> shift
    return code


def with_scene(codes: Tensor, scene: Tensor, depth: int) -> Tensor:
    """Codes (N,) of up to 3 ``depth`` bits with the scene (N,) above them, so that scenes stay apart when sorted.

    Raises:
        DataError: there are so many scenes that 63 bits do not hold both.
    """
    most = int(scene.max()) if len(scene) else 0
    if 3 * depth + most.bit_length() > 63:
        raise DataError(
            f"{most + 1} scenes of {depth} bits an axis are too many for one batch",
            "Use smaller batches or a coarser grid.",
        )
    return scene << 3 * depth | codes


def _interleaved(axes: list[Tensor]) -> Tensor:
    """... x1 y1 z1 x0 y0 z0 of three numbers of up to 20 bits."""
    x, y, z = (_spread(axis) for axis in axes)
    return x << 2 | y << 1 | z


def _spread(x: Tensor) -> Tensor:
    """Bit i to bit 3 i."""
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        x = (x | x << shift) & mask
    return x
