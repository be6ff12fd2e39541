"""The stages of a scene while a network passes over it: voxels, the curves through them, patches, and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from geopeft_cli.contracts import Convolution, VoxelLevel
from geopeft_cli.geometry.clusters import Clusters
from geopeft_cli.geometry.patches import Patches, patches
from geopeft_cli.geometry.serialization import curve_codes, curve_depths, with_scene
from geopeft_cli.geometry.voxels import grid_pool, scene_index

DepthRule = Literal["scene", "batch"]
PatchRule = Literal["varlen", "legacy_min"]
AttentionBy = Literal["torch", "flash"]


class SceneLevel(VoxelLevel):
    """A stage of packed scenes, with the curves along which its blocks read it.

    Args:
        centers: (N, 3).
        offsets: int64 (scenes + 1,).
        voxels: int64 (N, 3).
        depths: int64 (scenes,), bits an axis of the codes.
        curves: block i of the stage reads curve i modulo their number.
        patch_rule: ``varlen``, patches of a scene are its own matter; ``legacy_min``, no patch is longer than the
            smallest scene of the batch.
        clusters: which rows of the stage before are one row here; none for the first.
        convolution: by which package the voxels are convolved.
        attention: by which package the patches attend.
    """

    def __init__(
        self,
        centers: Tensor,
        offsets: Tensor,
        voxels: Tensor,
        depths: Tensor,
        curves: Sequence[str],
        patch_rule: PatchRule,
        clusters: Clusters | None = None,
        convolution: Convolution = "torch",
        attention: AttentionBy = "torch",
    ) -> None:
        super().__init__(centers, offsets, voxels, convolution)
        self.attention: AttentionBy = attention
        self.depths, self.curves, self.patch_rule = depths, tuple(curves), patch_rule
        self._clusters = clusters

    @property
    def clusters(self) -> Clusters:
        assert self._clusters is not None, "the first stage has none before it"
        return self._clusters

    def codes(self, curve: str) -> Tensor:
        """The scene and the place along a curve of every row, int64 (N,)."""
        scene = scene_index(self.offsets)
        codes = curve_codes(self.voxels, self.depths[scene], curve)
        return with_scene(codes, scene, int(self.depths.max()))

    def order(self, turn: int) -> Tensor:
        """The rows along the curve of a block, int64 (N,), scene after scene; rows in one voxel in their own order."""
        curve = self.curves[turn % len(self.curves)]
        return self.memo(("order", curve), lambda: self.codes(curve).argsort(stable=True))

    def patches(self, turn: int, length: int) -> Patches:
        """The patches of a block, of at most ``length`` rows."""
        if self.patch_rule == "legacy_min":
            length = min(length, *self.sizes)
        curve = self.curves[turn % len(self.curves)]
        return self.memo(("patches", curve, length), lambda: patches(self.order(turn), self.sizes, length))

    def pooled(
        self,
        stride: int,
        curves: Sequence[str],
        depths: DepthRule | Tensor,
        keys: Tensor | None = None,
    ) -> SceneLevel:
        """The next stage: centers are the means of what is joined.

        Args:
            stride: see :func:`geopeft_cli.geometry.voxels.grid_pool`.
            curves: of the next stage.
            depths: int64 (scenes,), or from which voxels to take them.
            keys: see ``grid_pool``.
        """
        coarse = grid_pool(self.voxels, self.offsets, stride, keys)
        centers = coarse.clusters.mean(self.centers.double()).to(self.centers.dtype)
        if isinstance(depths, str):
            depths = depths_by(depths, coarse.voxels, coarse.offsets)
        return SceneLevel(
            centers,
            coarse.offsets,
            coarse.voxels,
            depths,
            curves,
            self.patch_rule,
            coarse.clusters,
            self.convolution,
            self.attention,
        )


def depths_by(rule: DepthRule, voxels: Tensor, offsets: Tensor) -> Tensor:
    """Bits an axis, int64 (scenes,): each scene's own, or for all those of the largest scene of the batch.

    Raises:
        ShapeError, DataError: as :func:`geopeft_cli.geometry.serialization.curve_depths` does.
    """
    depths = curve_depths(voxels, offsets)
    return depths if rule == "scene" else torch.full_like(depths, int(depths.max()))
