"""Point Transformer V3 (Wu et al., CVPR 2024, arXiv 2312.10035), as supervised on one data set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from geopeft_cli.backbones.layouts import PTV3
from geopeft_cli.backbones.scene_blocks import Norm
from geopeft_cli.backbones.scene_level import SceneLevel
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import CheckpointLayout, Scenes, Site
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.geometry.serialization import curve_codes, with_scene
from geopeft_cli.geometry.sparse_convolution import SubmanifoldConvolution
from geopeft_cli.geometry.voxels import scene_index

BASE: dict[str, Any] = {
    "widths": (32, 64, 128, 256, 512),
    "depths": (2, 2, 2, 6, 2),
    "decoder_widths": (64, 64, 128, 256),
    "decoder_depths": (2, 2, 2, 2),
}
STEM_KERNEL = 5


class Embedding(nn.Module):
    """A submanifold convolution over 5 x 5 x 5 voxels, BatchNorm, GELU: (N, in) -> (N, C)."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        convolution = SubmanifoldConvolution(inputs, outputs, STEM_KERNEL, level=0, bias=False)
        self.stem = nn.Sequential(OrderedDict({"conv": convolution, "norm": norm(outputs), "act": nn.GELU()}))

    def forward(self, features: Tensor) -> Tensor:
        return self.stem(features)  # type: ignore[no-any-return]


class PTv3(SceneTransformer):
    """Encoder and decoder; voxels are pooled along the first curve, and codes lose their last bits.

    As in the released code, which its weights need, the position encoding of the first block of a decoder stage reads
    the encoder's share alone.

    Args:
        settings: see :class:`SceneTransformer`; by default those of ScanNet.
    """

    name: ClassVar[str] = "ptv3"
    layout: ClassVar[CheckpointLayout] = PTV3
    norm: ClassVar[Norm] = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)
    stem: ClassVar[str] = "embedding.stem.conv."
    stale_skip: ClassVar[bool] = True

    def __init__(self, in_channels: int = 6, **settings: Any) -> None:
        super().__init__(in_channels, **({**BASE, **settings}))
        for stride in self.stride:
            if stride & (stride - 1) or stride < 1:
                raise UsageError(f"backbone.stride: {stride} is no power of 2, which pooling along a curve needs")

    def make_embedding(self) -> nn.Module:
        return Embedding(self.in_channels, self.widths[0], type(self).norm)

    def embedding_sites(self) -> list[Site]:
        return []

    def levels(self, scenes: Scenes) -> list[SceneLevel]:
        """See :class:`SceneTransformer`.

        Raises:
            DataError: also where a single voxel would have to train a BatchNorm.
        """
        levels = super().levels(scenes)
        single = [stage for stage, level in enumerate(levels) if len(level.voxels) == 1]
        if single and any(module.training for module in self.modules() if isinstance(module, nn.BatchNorm1d)):
            raise DataError(
                f"a single voxel is left at stage {single[0]}, and BatchNorm in training needs two",
                "Use larger scenes or batches, or a finer data.grid.",
            )
        return levels

    def pooled(self, level: SceneLevel, stride: int, curves: Sequence[str]) -> SceneLevel:
        bits = stride.bit_length() - 1
        scene = scene_index(level.offsets)
        codes = curve_codes(level.voxels, level.depths[scene], level.curves[0]) >> 3 * bits
        keys = with_scene(codes, scene, int(level.depths.max()))
        return level.pooled(stride, curves, (level.depths - bits).clamp(min=0), keys)
