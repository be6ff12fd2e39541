"""The U-shaped network that Point Transformer V3 and Sonata share: an encoder of stages, and a decoder or none."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.flash_attention import load_flash_attention
from geopeft_cli.backbones.scene_blocks import Block, Down, Norm, Stage, Up, stage_sites
from geopeft_cli.backbones.scene_level import AttentionBy, DepthRule, PatchRule, SceneLevel, depths_by
from geopeft_cli.contracts import Convolution, Geometry, SceneBackbone, Scenes, Site, Tokens, published
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.serialization import CURVES
from geopeft_cli.geometry.spconv_convolution import load_spconv

HEAD_WIDTH = 16  # channels an attention head, in every released model
Shuffle = Literal["train", "always", "never"]


class SceneTransformer(SceneBackbone):
    """Serialized voxels, attention in patches along space-filling curves, pooling between stages.

    Without a decoder, the feature of a voxel is its own at the first stage beside those of the voxels that hold it at
    all coarser ones; with one, the output of the decoder.

    Args:
        in_channels: input features of a voxel.
        widths: channels, by stage.
        depths: number of blocks, by stage.
        heads: attention heads, by stage; by default one for 16 channels.
        patch_size: voxels in a patch, for all stages or by stage.
        decoder_widths: channels of the decoder, by stage from the finest, one less than stages; none for no decoder.
        decoder_depths: its blocks.
        decoder_heads: its heads.
        decoder_patch_size: its patches; by default those of the encoder.
        decoder_is_new: whether it is no part of the pre-trained network, and so has no layers for methods to adapt.
        stride: voxels along an axis that are joined, by transition.
        curves: which the blocks of a stage read in turn.
        drop_path: stochastic depth of the last block of the encoder and of the coarsest of the decoder.
        shuffle_orders: whether the curves of each stage change places at random in a forward pass: in training,
            ``always`` as in the released code, or never.
        serialization_depth: bits an axis of the codes: each scene's own, or those of the largest of the ``batch``, as
            in the released code.
        attention_patches: ``varlen``, every scene is cut by itself; ``legacy_min``, no patch is longer than the
            smallest scene of the batch, as in the released code without flash attention.
        upcast: how many of the coarsest stages are put together before the rest is copied down; by default all.
        convolution: by which package voxels are convolved, ``torch`` or, where it is installed, ``spconv``.
        attention: by which package patches attend, ``torch`` or, where it is installed, ``flash`` for flash-attn.

    Raises:
        UsageError: the settings do not go together, or a package that is asked for does not load.
    """

    head_layout: ClassVar[str] = "linear"
    norm: ClassVar[Norm]
    stale_skip: ClassVar[bool]

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int] | None = None,
        patch_size: int | Sequence[int] = 1024,
        decoder_widths: Sequence[int] = (),
        decoder_depths: Sequence[int] = (),
        decoder_heads: Sequence[int] | None = None,
        decoder_patch_size: int | Sequence[int] | None = None,
        decoder_is_new: bool = False,
        stride: int | Sequence[int] = 2,
        curves: Sequence[str] = CURVES,
        drop_path: float = 0.3,
        shuffle_orders: Shuffle = "train",
        serialization_depth: DepthRule = "scene",
        attention_patches: PatchRule = "varlen",
        upcast: int | None = None,
        convolution: Convolution = "torch",
        attention: AttentionBy = "torch",
    ) -> None:
        super().__init__()
        stages = len(widths)
        self.in_channels, self.drop_path, self.shuffle_orders = in_channels, drop_path, shuffle_orders
        self.serialization_depth: DepthRule = serialization_depth
        self.attention_patches: PatchRule = attention_patches
        self.convolution: Convolution = convolution
        self.attention: AttentionBy = attention
        if convolution == "spconv":
            load_spconv()
        if attention == "flash":
            load_flash_attention()
        self.widths, self.decoder_widths = tuple(widths), tuple(decoder_widths)
        down, up = stages, stages - 1 if decoder_widths else 0
        self.depths = _by_stage("depths", depths, down)
        self.heads = _heads_by_stage("heads", heads, self.widths)
        self.patch_size = _by_stage("patch_size", patch_size, down)
        _by_stage("decoder_widths", decoder_widths, up)
        self.decoder_depths = _by_stage("decoder_depths", decoder_depths, up)
        self.decoder_heads = _heads_by_stage("decoder_heads", decoder_heads, self.decoder_widths)
        patches = self.patch_size[:up] if decoder_patch_size is None else decoder_patch_size
        self.decoder_patch_size = _by_stage("decoder_patch_size", patches, up)
        self.decoder_is_new = decoder_is_new
        self.stride = _by_stage("stride", stride, stages - 1)
        self.curves = self._checked_curves(curves)
        self.upcast = stages - 1 if upcast is None else upcast
        if not 0 <= self.upcast < stages:
            raise UsageError(f"backbone.upcast: {self.upcast}, expected 0 to {stages - 1}")
        self.depth, self.width = sum(self.depths) + sum(self.decoder_depths), self.widths[-1]
        joined = sum(self.widths[stages - 1 - self.upcast :])
        self.feature_width = self.decoder_widths[0] if self.decoder_widths else joined
        self._warn_of_coupling()

        self.embedding = self.make_embedding()
        self.enc = self._encoder()
        if self.decoder_widths:
            self.dec = self._decoder()

    @abstractmethod
    def make_embedding(self) -> nn.Module:
        """The module that turns features (N, in_channels) into rows (N, widths[0])."""

    @abstractmethod
    def pooled(self, level: SceneLevel, stride: int, curves: Sequence[str]) -> SceneLevel:
        """The stage after ``level``."""

    @abstractmethod
    def embedding_sites(self) -> list[Site]:
        """The dense layers of the embedding."""

    def _checked_curves(self, curves: Sequence[str]) -> tuple[str, ...]:
        chosen = (curves,) if isinstance(curves, str) else tuple(curves)
        unknown = [curve for curve in chosen if curve not in CURVES]
        if unknown or not chosen:
            raise UsageError(f"backbone.curves: {list(chosen)}", f"Choose among {', '.join(CURVES)}.")
        return chosen

    def _warn_of_coupling(self) -> None:
        coupled = [
            f"{name}: {value}"
            for name, value, alone in (
                ("serialization_depth", self.serialization_depth, "scene"),
                ("attention_patches", self.attention_patches, "varlen"),
            )
            if value != alone
        ]
        if coupled:
            warnings.warn(f"{' and '.join(coupled)}: predictions for a scene depend on its batch", stacklevel=3)

    def _encoder(self) -> nn.Module:
        encoder, turns = nn.Module(), 0
        rates = _rising(self.drop_path, sum(self.depths))
        for level, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            way = ("down", Down(self.widths[level - 1], width, type(self).norm)) if level else None
            heads, length = self.heads[level], self.patch_size[level]
            blocks = [Block(width, heads, level, turn, length, rates[turns + turn]) for turn in range(depth)]
            encoder.add_module(f"enc{level}", Stage(way, blocks))
            turns += depth
        return encoder

    def _decoder(self) -> nn.Module:
        decoder = nn.Module()
        rates = _rising(self.drop_path, sum(self.decoder_depths))
        ends = list(accumulate(self.decoder_depths))
        widths = (*self.decoder_widths, self.widths[-1])
        for level in reversed(range(len(self.decoder_widths))):
            width, depth, end = widths[level], self.decoder_depths[level], ends[level]
            heads, length = self.decoder_heads[level], self.decoder_patch_size[level]
            own = reversed(rates[end - depth : end])
            blocks = [Block(width, heads, level, turn, length, rate) for turn, rate in enumerate(own)]
            up = Up(widths[level + 1], self.widths[level], width, type(self).norm)
            decoder.add_module(f"dec{level}", Stage(("up", up), blocks))
        return decoder

    def settings(self) -> dict[str, Any]:
        lists = ("widths", "depths", "heads", "patch_size", "stride", "curves")
        decoder = ("decoder_widths", "decoder_depths", "decoder_heads", "decoder_patch_size")
        rules = ("shuffle_orders", "serialization_depth", "attention_patches", "convolution", "attention")
        plain = ("in_channels", "drop_path", *rules, "upcast", "decoder_is_new")
        settings = {name: list(getattr(self, name)) for name in (*lists, *decoder)}
        return settings | {name: getattr(self, name) for name in plain}

    @property
    def fewest_points(self) -> int:
        return 1

    @property
    def fusion_blocks(self) -> range:
        return range(0)

    @property
    def encoder_blocks(self) -> range:
        return range(sum(self.depths))

    def sites(self) -> list[Site]:
        sites, first = self.embedding_sites(), 0
        for level, depth in enumerate(self.depths):
            stage, name = self._stage("enc", level), f"enc.enc{level}"
            if level:
                sites.append(
                    Site(f"{name}.down.proj", "transition", -1, level - 1, stage.get_submodule("down"), "proj")
                )
            sites += stage_sites(stage, name, level, first)
            first += depth
        for level in reversed(range(0 if self.decoder_is_new else len(self.decoder_widths))):
            stage, name = self._stage("dec", level), f"dec.dec{level}"
            for part, source in (("proj", level + 1), ("proj_skip", level)):
                owner = stage.get_submodule(f"up.{part}")
                sites.append(Site(f"{name}.up.{part}.0", "transition", -1, source, owner, "0"))
            sites += stage_sites(stage, name, level, first)
            first += self.decoder_depths[level]
        return sites

    def _stage(self, half: str, level: int) -> Stage:
        stage = self.get_submodule(f"{half}.{half}{level}")
        assert isinstance(stage, Stage)
        return stage

    def levels(self, scenes: Scenes) -> list[SceneLevel]:
        """The geometry of all stages, which no weight touches.

        Raises:
            ShapeError, DataError: the scenes cannot be read, see :meth:`Scenes.check`.
        """
        scenes.check(self.in_channels)
        depths = depths_by(self.serialization_depth, scenes.voxels, scenes.offsets)
        voxels, offsets = scenes.voxels.long(), scenes.offsets.long()
        first = SceneLevel(
            scenes.coordinates,
            offsets,
            voxels,
            depths,
            self._turns(),
            self.attention_patches,
            convolution=self.convolution,
            attention=self.attention,
        )
        levels = [first]
        for stride in self.stride:
            levels.append(self.pooled(levels[-1], stride, self._turns()))
        return levels

    def _turns(self) -> tuple[str, ...]:
        """The curves in the order in which the blocks of a stage read them in this pass."""
        if self.shuffle_orders == "always" or (self.shuffle_orders == "train" and self.training):
            return tuple(self.curves[index] for index in torch.randperm(len(self.curves)).tolist())
        return self.curves

    def encode(self, points: Scenes, layers: Sequence[int] = ()) -> Tokens:  # type: ignore[override]
        """Features (N, feature_width) of the voxels of packed scenes, in their order.

        Args:
            points: the scenes.
            layers: blocks whose raw outputs are wanted, 0-based, counted through the encoder and then the decoder.

        Raises:
            ShapeError, DataError: as :meth:`levels` does.
        """
        levels = self.levels(points)
        outputs: list[Tensor] = []
        with published(Geometry(list(levels))):
            x, stages = self.embedding(points.features), []
            for index, level in enumerate(levels):
                stage = self._stage("enc", index)
                if index:
                    x = stage.get_submodule("down")(x, level.clusters)
                done = stage(x)
                x = done[-1] if done else x
                stages.append(x)
                outputs += done
            features = self._decoded(levels, stages, outputs) if self.decoder_widths else self.joined(levels, stages)
        kept = {index: outputs[index] for index in layers}
        first = levels[0]
        return Tokens(features, first.centers, first.slots, kept, offsets=first.offsets)

    def joined(self, levels: Sequence[SceneLevel], stages: Sequence[Tensor], upcast: int | None = None) -> Tensor:
        """The outputs of the stages put together at the finest voxels, the finest first; see ``upcast``."""
        upcast, x = self.upcast if upcast is None else upcast, stages[-1]
        for index in reversed(range(len(stages) - 1)):
            x = levels[index + 1].clusters.spread(x)
            if len(stages) - 1 - index <= upcast:
                x = torch.cat([stages[index], x], dim=1)
        return x

    def _decoded(self, levels: Sequence[SceneLevel], stages: Sequence[Tensor], outputs: list[Tensor]) -> Tensor:
        x = stages[-1]
        for index in reversed(range(len(self.decoder_widths))):
            stage = self._stage("dec", index)
            x, skip = stage.get_submodule("up")(x, stages[index], levels[index + 1].clusters)
            done = stage(x, skip if self.stale_skip else None)
            x = done[-1] if done else x
            outputs += done
        return x


def _rising(last: float, count: int) -> list[float]:
    """From 0 to ``last``."""
    return [last * index / max(count - 1, 1) for index in range(count)]


def _by_stage(name: str, values: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """One value for every stage.

    Raises:
        UsageError: there are not as many.
    """
    found = (values,) * stages if isinstance(values, int) else tuple(values)
    if len(found) != stages:
        raise UsageError(f"backbone.{name}: {len(found)} values, expected {stages}")
    return found


def _heads_by_stage(name: str, heads: Sequence[int] | None, widths: Sequence[int]) -> tuple[int, ...]:
    """As given, or one for 16 channels.

    Raises:
        UsageError: there is another number of them, or some do not divide their channels.
    """
    found = _by_stage(name, heads or [max(width // HEAD_WIDTH, 1) for width in widths], len(widths))
    for width, count in zip(widths, found, strict=True):
        if width % count:
            raise UsageError(f"backbone.{name}: {count} heads do not divide {width} channels")
    return found
