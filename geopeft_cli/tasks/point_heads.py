"""The official heads for a label a point. Their layers are top-level modules of the backbone, as in official files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.contracts import Backbone
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.grouping import take
from geopeft_cli.geometry.sampling import NearOrigin, farthest_point_sample
from geopeft_cli.tasks.propagation import FeaturePropagation, GraphPropagation, one_hot

LABEL_WIDTH = 64
SHALLOW = 12  # the official heads read blocks 3, 7 and 11 of every network, deeper ones included


class PointHead(ABC):
    """A head on a backbone, without state of its own.

    Args:
        backbone: built with ``dense``; its sizes set those of the head.
        classes: how many labels a point may have.
        categories: how many categories of clouds the head is told apart; 0 for none.
    """

    def __init__(self, backbone: Backbone, classes: int, categories: int) -> None:
        self.backbone, self.classes, self.categories = backbone, classes, categories

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """New layers by their official names."""

    @abstractmethod
    def logits(self, points: Tensor, categories: Tensor | None) -> Tensor:
        """(B, classes, N) for clouds (B, N, 3) of ``categories`` int64 (B,), ``None`` where they are not known."""

    def label(self, points: Tensor, categories: Tensor | None) -> list[Tensor]:
        """The categories as features (B, 64); nothing for a head without them."""
        if not self.categories:
            return []
        encoded = one_hot(categories, self.categories, points).unsqueeze(-1)
        return [self.run("label_conv", encoded).squeeze(-1)]

    def run(self, name: str, *inputs: Tensor) -> Tensor:
        """What a module of the backbone makes of ``inputs``."""
        return cast(Tensor, self.backbone.get_submodule(name)(*inputs))

    def run_joined(self, name: str, points: Tensor, cloud: Tensor, cloud_first: bool = False) -> Tensor:
        """What a convolution makes of features of points (B, c, N), joined to those (B, C) of their cloud.

        The share of the cloud is the same for all of its points and computed once.
        """
        conv = self.backbone.get_submodule(name)
        if type(conv) is not nn.Conv1d:  # something stands around it
            repeated = cloud.unsqueeze(-1).expand(-1, -1, points.shape[2])
            return self.run(name, torch.cat([repeated, points] if cloud_first else [points, repeated], dim=1))
        widths = [points.shape[1], cloud.shape[1]]
        first, second = conv.weight.squeeze(-1).split(widths[::-1] if cloud_first else widths, dim=1)
        of_points, of_cloud = (second, first) if cloud_first else (first, second)
        return F.conv1d(points, of_points.unsqueeze(-1)) + F.linear(cloud, of_cloud, conv.bias).unsqueeze(-1)

    def label_modules(self) -> dict[str, nn.Module]:
        if not self.categories:
            return {}
        conv = nn.Conv1d(self.categories, LABEL_WIDTH, 1, bias=False)
        return {"label_conv": nn.Sequential(conv, nn.BatchNorm1d(LABEL_WIDTH), nn.LeakyReLU(0.2))}

    @property
    def label_width(self) -> int:
        return LABEL_WIDTH if self.categories else 0


class TokensHead(PointHead):
    """The head of Point-MAE, PointGPT and, with other names, ACT: three layers of the trunk carried to every point.

    Every point is told maximum and mean over the patches, and the category of its cloud.
    """

    suffix: ClassVar[str] = ""

    def modules(self) -> dict[str, nn.Module]:
        width, layers = self.backbone.width, len(self.layers)
        carried = 1024 if width <= 384 else 2048
        narrow, narrower = carried // 2, carried // 4
        inputs = carried + 2 * layers * width + self.extra_width + self.label_width
        made: dict[str, nn.Module] = {
            "propagation_0": FeaturePropagation(layers * width + 3, 4 * width, carried),
            "convs1": nn.Conv1d(inputs, narrow, 1),
            "convs2": nn.Conv1d(narrow, narrower, 1),
            "convs3": nn.Conv1d(narrower, self.classes, 1),
            "bns1": nn.BatchNorm1d(narrow),
            "bns2": nn.BatchNorm1d(narrower),
            "dp1": nn.Dropout(0.5),
        }
        return self.label_modules() | {name + self.suffix: module for name, module in made.items()}

    def logits(self, points: Tensor, categories: Tensor | None) -> Tensor:
        tokens = self.backbone.encode(points, (*self.layers, self.backbone.depth - 1))
        normed = [self.run("norm", tokens.spatial(tokens.layers[layer])) for layer in self.layers]
        features = torch.cat(normed, dim=-1)
        known = [features.amax(dim=1), features.mean(dim=1), *self.extra(tokens.layers[self.backbone.depth - 1])]
        cloud = torch.cat([*known, *self.label(points, categories)], dim=-1)
        carried = self.run(f"propagation_0{self.suffix}", points, tokens.spatial_centers(), features, points)
        x = self.run_joined(f"convs1{self.suffix}", carried, cloud)
        x = self.run(f"dp1{self.suffix}", self.run(f"bns1{self.suffix}", x).relu())
        x = self.run(f"bns2{self.suffix}", self.run(f"convs2{self.suffix}", x)).relu()
        return self.run(f"convs3{self.suffix}", x)

    @property
    def layers(self) -> tuple[int, ...]:
        return read_layers(self.backbone)

    @property
    def extra_width(self) -> int:
        return 0

    def extra(self, last: Tensor) -> list[Tensor]:
        """Further features (B, c) of a cloud, from the raw output (B, T, C) of the last block."""
        return []


class TokensAndQueriesHead(TokensHead):
    """The same for ReCon, which also tells every point the maximum over the queries."""

    @property
    def extra_width(self) -> int:
        return self.backbone.width

    def extra(self, last: Tensor) -> list[Tensor]:
        return [last[:, :3].amax(dim=1)]


class RenamedTokensHead(TokensHead):
    """The same under the names of ACT, which starts its weights in a way of its own."""

    suffix = "_cls"

    def modules(self) -> dict[str, nn.Module]:
        made = super().modules()
        for layer in (layer for module in made.values() for layer in module.modules()):
            if isinstance(layer, nn.Conv1d):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return made


class NestedHead(PointHead):
    """The head of Point-BERT: the layers of the trunk, the last first, meet at ever more points of the cloud.

    The points are the first 2 G and 4 G of farthest point sampling, officially 256 and 512.
    """

    def modules(self) -> dict[str, nn.Module]:
        width = self.backbone.width
        own = 3 + self.categories
        return {
            "propagation_2": FeaturePropagation(width + 3, 4 * width, width),
            "propagation_1": FeaturePropagation(width + 3, 4 * width, width),
            "propagation_0": FeaturePropagation(width + own, 4 * width, width),
            "dgcnn_pro_1": GraphPropagation(width),
            "dgcnn_pro_2": GraphPropagation(width),
            "conv1": nn.Conv1d(width, 128, 1),
            "conv2": nn.Conv1d(128, self.classes, 1),
            "bn1": nn.BatchNorm1d(128),
            "drop1": nn.Dropout(0.5),
        }

    def logits(self, points: Tensor, categories: Tensor | None) -> Tensor:
        layers = read_layers(self.backbone)
        tokens = self.backbone.encode(points, layers)
        shallow, middle, deep = (self.run("norm", tokens.spatial(tokens.layers[layer])) for layer in layers)
        few = tokens.spatial_centers()
        more, most = (self.sampled(points, times * few.shape[1]) for times in (2, 4))
        at_more = self.run("propagation_2", more, few, middle, more).transpose(1, 2)
        at_most = self.run("propagation_1", most, few, shallow, most).transpose(1, 2)
        at_more = self.run("dgcnn_pro_2", few, deep, more, at_more)
        at_most = self.run("dgcnn_pro_1", more, at_more, most, at_most)
        told = one_hot(categories, self.categories, points).unsqueeze(1).expand(-1, points.shape[1], -1)
        x = self.run("propagation_0", points, most, at_most, torch.cat([told, points], dim=-1))
        x = self.run("drop1", self.run("bn1", self.run("conv1", x)).relu())
        return self.run("conv2", x)

    def sampled(self, points: Tensor, count: int) -> Tensor:
        """(B, count, 3), or all points of a smaller cloud."""
        near_origin = cast(NearOrigin, self.backbone.settings()["near_origin"])
        return take(points, farthest_point_sample(points, min(count, points.shape[1]), near_origin))


class StagesHead(PointHead):
    """The head of Point-M2AE: the output of every stage carried to every point."""

    def modules(self) -> dict[str, nn.Module]:
        widths = self.backbone.settings()["widths"]
        joint = len(widths) * 1024
        sizes = (2 * joint + self.label_width, 1024, 512, 256)
        propagations = (FeaturePropagation(width + 3, 4 * self.backbone.width, 1024) for width in widths)
        made: dict[str, nn.Module] = {"propagations": nn.ModuleList(propagations)}
        for number, (before, after) in enumerate(pairwise(sizes), start=1):
            made |= {f"convs{number}": nn.Conv1d(before, after, 1), f"bns{number}": nn.BatchNorm1d(after)}
        made |= {"convs4": nn.Conv1d(sizes[-1], self.classes, 1), "dp1": nn.Dropout(0.5)}
        return self.label_modules() | made

    def logits(self, points: Tensor, categories: Tensor | None) -> Tensor:
        depths = self.backbone.settings()["depths"]
        last = [sum(depths[: stage + 1]) - 1 for stage in range(len(depths))]
        tokens = self.backbone.encode(points, last)
        carried = torch.cat(
            [
                self.run(
                    f"propagations.{stage}",
                    points,
                    centers,
                    self.run(f"h_encoder.encoder_norms.{stage}", tokens.layers[layer]),
                    points,
                )
                for stage, (centers, layer) in enumerate(zip(tokens.stages, last, strict=True))
            ],
            dim=1,
        )
        cloud = torch.cat([carried.amax(dim=2) + carried.mean(dim=2), *self.label(points, categories)], dim=-1)
        x = self.run_joined("convs1", carried, cloud, cloud_first=True)
        x = self.run("dp1", self.run("bns1", x).relu())
        for number in (2, 3):
            x = self.run(f"bns{number}", self.run(f"convs{number}", x)).relu()
        return self.run("convs4", x)


POINT_HEADS: dict[str, type[PointHead]] = {
    "nested": NestedHead,
    "stages": StagesHead,
    "tokens": TokensHead,
    "tokens_and_queries": TokensAndQueriesHead,
    "tokens_cls": RenamedTokensHead,
}


def read_layers(backbone: Backbone) -> tuple[int, ...]:
    """The three layers that a head reads: 3, 7, 11 of twelve or more, evenly spaced ones of fewer.

    Raises:
        UsageError: fewer than three.
    """
    depth = min(backbone.depth, SHALLOW)
    if depth < 3:
        raise UsageError(f"task: the segmentation head reads three layers, and {backbone.name} has {depth} here")
    step = depth // 3
    return depth - 1 - 2 * step, depth - 1 - step, depth - 1
