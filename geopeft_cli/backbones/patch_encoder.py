"""The mini-PointNet that turns the neighborhood of a center into a token (Yu et al., 2022, section 3.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

SMALL = (128, 256)
LARGE = (256, 512, 1024)
ROWS_AT_ONCE = 4096  # points; what keeps 512 channels, the widest of the small form, near the cache of a CPU core


class PatchEncoder(nn.Module):
    """One token for each group of points, or of tokens: (B, G, k, in) -> (B, G, C). Official name ``encoder``.

    Some layers per point, the maximum over the group joined to every point (maximum first), two more layers,
    and the maximum again. While nothing in it trains, an algebraically equal form without BatchNorm and
    without the repeated maximum runs in its place.

    Args:
        width: channels C of a token.
        inputs: channels of what is grouped.
        hidden: channels of the layers before the first maximum, as of ``SMALL`` or ``LARGE`` (PointGPT-B and -L).
        joint: channels of the layer behind it, by default twice those before it.
    """

    def __init__(self, width: int, inputs: int = 3, hidden: tuple[int, ...] = SMALL, joint: int | None = None) -> None:
        super().__init__()
        *inner, last = hidden
        joint = joint or 2 * last
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *inner)):
            layers += [nn.Conv1d(before, after, 1), nn.BatchNorm1d(after), nn.ReLU()]
        self.first_conv = nn.Sequential(*layers, nn.Conv1d(inner[-1], last, 1))
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * last, joint, 1), nn.BatchNorm1d(joint), nn.ReLU(), nn.Conv1d(joint, width, 1)
        )

    def forward(self, neighborhoods: Tensor) -> Tensor:
        batch, groups, size, inputs = neighborhoods.shape
        points = neighborhoods.reshape(batch * groups, size, inputs)
        tokens = self.folded(points) if self._is_frozen() else self.textbook(points)
        return tokens.reshape(batch, groups, -1)

    def textbook(self, points: Tensor) -> Tensor:
        """The definition: (M, k, in) -> (M, C)."""
        features = self.first_conv(points.transpose(1, 2))
        maximum = features.amax(dim=2, keepdim=True).expand_as(features)
        return self.second_conv(torch.cat([maximum, features], dim=1)).amax(dim=2)  # type: ignore[no-any-return]

    def folded(self, points: Tensor) -> Tensor:
        """The same function of frozen weights, (M, k, in) -> (M, C), with 0.6 of the multiplications.

        BatchNorm with fixed statistics is absorbed by the convolution before it. The convolution over
        [maximum, feature] is a sum of two: the first runs once a group; the second follows an affine layer
        directly, so the product of both weights takes the place of the pair.
        """
        stages = [
            tuple(tensor.to(points.dtype) for tensor in _absorb(conv, norm))
            for conv, norm in zip([*self.first_conv][:-1:3], [*self.first_conv][1:-1:3], strict=True)
        ]
        weight2, bias2 = _dense(self.first_conv[-1])
        weight3, bias3 = _absorb(self.second_conv[0], self.second_conv[1])
        weight4, bias4 = (tensor.to(points.dtype) for tensor in _dense(self.second_conv[3]))
        of_maximum, of_feature = weight3.chunk(2, dim=1)
        direct, constant = of_feature @ weight2, of_feature @ bias2 + bias3
        weight2, bias2, of_maximum, direct, constant = (
            tensor.to(points.dtype) for tensor in (weight2, bias2, of_maximum, direct, constant)
        )

        def encode(features: Tensor) -> Tensor:
            for weight, bias in stages:
                features = nn.functional.linear(features, weight, bias).relu_()
            maximum = nn.functional.linear(features, weight2).amax(dim=1) + bias2
            shared = nn.functional.linear(maximum, of_maximum, constant)
            features = nn.functional.linear(features, direct).add_(shared[:, None]).relu_()
            return nn.functional.linear(features, weight4).amax(dim=1) + bias4

        if torch.compiler.is_compiling() or points.device.type != "cpu":
            return encode(points)
        return torch.cat([encode(part) for part in points.split(max(1, ROWS_AT_ONCE // points.shape[1]))])

    def _is_frozen(self) -> bool:
        layers = [*self.first_conv, *self.second_conv]
        if any(type(layer) not in (nn.Conv1d, nn.BatchNorm1d, nn.ReLU) for layer in layers):
            return False  # a method sits at one of the convolutions
        if any(isinstance(layer, nn.BatchNorm1d) and layer.training for layer in layers):
            return False
        return not (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()))


def precise(tensor: Tensor) -> Tensor:
    """In float64, or in float32 on Apple's GPUs, which have no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _dense(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv1d)
    assert conv.bias is not None
    return precise(conv.weight[:, :, 0]), precise(conv.bias)


def _absorb(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Precise weight and bias of the convolution followed by the BatchNorm."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    weight, bias = _dense(conv)
    scale = precise(norm.weight) / torch.sqrt(precise(norm.running_var) + norm.eps)
    return weight * scale[:, None], (bias - precise(norm.running_mean)) * scale + precise(norm.bias)
