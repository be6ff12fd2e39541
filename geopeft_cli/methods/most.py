"""MoST: Monarch updates framed by a local smoothing of the tokens (CVPR 2025, arXiv 2503.18368).

y = base(x) + M K^p x + bias, with M a Monarch matrix on channels and K = I + lam S on tokens, S averaging each
token's nearest neighbors in space. K and M commute, so that the paper's K on both sides is one K^2, here applied
where the tensor is narrower. The code released with the paper differs; see the docs page of the method.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Backbone, Calibration, Foldable, Level, Method, current_level, select_sites
from geopeft_cli.errors import GeometryError, UsageError
from geopeft_cli.geometry.smoothing import rectifier
from geopeft_cli.methods.dense import Dense, dense_layer, sizes, with_update
from geopeft_cli.methods.monarch import MonarchFactors


class MoST(Method):
    """Step-0 identity. Merges exactly into the weights for lam = 0, else with the geometric remainder kept.

    Args:
        blocks: b of the Monarch factors.
        neighbors: k of S, the token itself not counted.
        eps: added to the distance before inverting it, in the unit of the prepared clouds.
        lam: weight of S in K = I + lam S.
        sides: p, how often K is applied: 2 is the paper's, 0 is plain Monarch.
        bias: whether the update has a bias, added behind K.
        dropout: on the input of the update, in training.
        targets: roles or names of the layers to adapt.
    """

    name: ClassVar[str] = "most"

    def __init__(
        self,
        blocks: int = 8,
        neighbors: int = 4,
        eps: float = 0.05,
        lam: float = 0.5,
        sides: int = 2,
        bias: bool = False,
        dropout: float = 0.0,
        targets: Sequence[str] = ("attention_in", "mlp_in"),
    ) -> None:
        self.blocks, self.bias, self.dropout, self.targets = blocks, bias, dropout, tuple(targets)
        self.rectify = Rectify(neighbors, eps, lam, sides)

    def settings(self) -> dict[str, Any]:
        return {
            "blocks": self.blocks,
            "bias": self.bias,
            "dropout": self.dropout,
            "targets": list(self.targets),
            "neighbors": self.rectify.neighbors,
            "eps": self.rectify.eps,
            "lam": self.rectify.lam,
            "sides": self.rectify.sides,
        }

    def attach(self, backbone: Backbone) -> None:
        for site in select_sites(backbone, self.targets):
            if site.level is None and not self.rectify.is_identity:
                raise UsageError(
                    f"method.targets: {site.name} reads no tokens with centers, which K-Rectify needs",
                    "Leave it out, or use method.sides=0.",
                )
            layer = dense_layer(site)
            factors = MonarchFactors(*sizes(layer), self.blocks, self.bias)
            site.replace(MonarchUpdate(layer, factors, self.rectify, site.level or 0, site.name, self.dropout))


class Monarch(MoST):
    """Plain Monarch updates: MoST without its geometry. Mergeable, step-0 identity."""

    name: ClassVar[str] = "monarch"

    def __init__(
        self,
        blocks: int = 8,
        bias: bool = False,
        dropout: float = 0.0,
        targets: Sequence[str] = ("attention_in", "mlp_in"),
    ) -> None:
        super().__init__(blocks=blocks, lam=0.0, sides=0, bias=bias, dropout=dropout, targets=targets)

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings().items() if name in _MONARCH_SETTINGS}


_MONARCH_SETTINGS = ("blocks", "bias", "dropout", "targets")


class Rectify:
    """K^p on the tokens of a level: x (B, T, C) -> (B, T, C). Parameter-free; tokens without a center pass by."""

    def __init__(self, neighbors: int, eps: float, lam: float, sides: int) -> None:
        self.neighbors, self.eps, self.lam, self.sides = neighbors, eps, lam, sides

    @property
    def is_identity(self) -> bool:
        return self.lam == 0.0 or self.sides == 0

    @property
    def gain(self) -> float:
        """What K^p multiplies a locally constant field by."""
        return (1.0 + self.lam) ** self.sides

    def __call__(self, x: Tensor, level: Level, reader: str) -> Tensor:
        if x.ndim != 3 or x.shape[1] != level.slots.shape[0]:
            raise GeometryError(
                f"{reader} got tokens of shape {tuple(x.shape)}, the geometry describes {level.slots.shape[0]} a cloud"
            )
        key = (self.neighbors, self.eps, self.lam, self.sides)
        operator = level.memo(key, lambda: rectifier(level.centers, level.slots, *key))
        if x.is_inference():  # has no version that would tell of changes in place
            return torch.bmm(operator.to(x.dtype), x)
        # Layers that read the same tensor follow each other: remembering the last one is enough and holds no more.
        last: dict[Any, tuple[Tensor, Tensor]] = level.memo("rectified", dict)
        entry = (id(x), x._version, key)
        if entry not in last:
            last.clear()
            last[entry] = (x, torch.bmm(operator.to(x.dtype), x))
        return last[entry][1]


class MonarchUpdate(Foldable):
    """y = base(x) + M K^p dropout(x) + bias. With ``kept`` the base holds W + M, and y = base(x) + M (K^p x - x)."""

    base: Dense

    def __init__(
        self, base: Dense, factors: MonarchFactors, rectify: Rectify, level: int, site: str, dropout: float
    ) -> None:
        super().__init__(base)
        self.most = factors
        self.rectify, self.level, self.site = rectify, level, site
        self.dropout = nn.Dropout(dropout)
        self.kept = False

    def forward(self, x: Tensor) -> Tensor:
        # No backward pass needs the output of a dense layer, so the sum may take its place.
        y: Tensor = self.base(x)
        if isinstance(self.base, nn.Conv1d):
            y.add_(self.most(self.dropout(x).transpose(1, 2)).transpose(1, 2))
            return y if self.most.bias is None else y.add_(self.most.bias[:, None])
        self.update(self.dropout(x), y)
        return y if self.most.bias is None else y.add_(self.most.bias)

    def update(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """M K^p x, or M (K^p x - x) once M is in the base; (B, T, in) -> (B, T, out).

        With ``onto``, a contiguous tensor of the output's shape, the update is added to it in place.
        """
        if self.rectify.is_identity:
            return self.most(x, onto)  # type: ignore[no-any-return]
        level = current_level(self.level, self.site)
        if self.most.inputs > self.most.outputs:
            y = self.most(x)
            rectified = self.rectify(y, level, self.site)
            update: Tensor = rectified - y if self.kept else rectified
            return update if onto is None else onto.add_(update)
        rectified = self.rectify(x, level, self.site)
        return self.most(rectified - x if self.kept else rectified, onto)  # type: ignore[no-any-return]

    @property
    def exact_modes(self) -> tuple[str, ...]:
        return ("exact",) if self.rectify.is_identity else ("keep-k",)

    @property
    def approximate_modes(self) -> tuple[str, ...]:
        return () if self.rectify.is_identity else ("drop-k", "dc", "calibrated")

    def calibration(self) -> FoldStatistics:
        return FoldStatistics(self)

    @torch.no_grad()
    def folded(self, mode: str, calibration: Calibration | None = None) -> nn.Module:
        factor = 1.0
        if mode in self.approximate_modes:
            statistics = calibration if isinstance(calibration, FoldStatistics) else self.calibration()
            factor = statistics.coefficient(mode)
        keeps_bias = mode == "keep-k" and self.base.bias is None
        bias = None if self.most.bias is None or keeps_bias else self.most.bias.detach()
        layer = with_update(self.base, factor * self.most.dense(), bias)
        if mode != "keep-k":
            return layer
        kept = copy.deepcopy(self)
        kept.base = layer
        kept.expect_merged_base()
        return kept

    def expect_merged_base(self) -> None:
        self.kept = True
        if self.base.bias is not None:
            self.most.bias = None  # it is in the base


class FoldStatistics(Calibration):
    """How well c M x stands for A = M K^p x, from three sums over tokens in float64.

    With D = M x the best c is <A, D> / |D|^2, and the relative error of any c is |A - c D| / |A|.
    """

    def __init__(self, wrapper: MonarchUpdate) -> None:
        self.wrapper = wrapper
        self.target = self.product = self.plain = 0.0

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        target, plain = self.wrapper.update(x).double(), self.wrapper.most(x).double()
        self.target += float((target * target).sum())
        self.product += float((target * plain).sum())
        self.plain += float((plain * plain).sum())

    def coefficient(self, mode: str) -> float:
        """The c of W + c M."""
        if mode == "drop-k":
            return 1.0
        if mode == "dc":
            return self.wrapper.rectify.gain
        return self.product / self.plain if self.plain > 0 else 1.0

    def error(self, mode: str, held_back: Calibration) -> float:
        assert isinstance(held_back, FoldStatistics)
        if held_back.target == 0.0:
            return 0.0
        c = self.coefficient(mode)
        rest = held_back.target - 2 * c * held_back.product + c**2 * held_back.plain
        return math.sqrt(max(rest, 0.0) / held_back.target)
