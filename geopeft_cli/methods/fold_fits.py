"""Dense maps fitted to stand for M K^p x, from sums over the tokens of clouds in float64, and their errors.

X are the tokens that reach a layer and T = K^p X, one token a row, those without a center included.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geopeft_cli.contracts import Calibration

if TYPE_CHECKING:
    from geopeft_cli.methods.monarch_update import MonarchUpdate

RIDGE = 1e-3  # of the mean square of a channel


class ScalarFit(Calibration):
    """c M x for M K^p x; the best c in the least-squares sense is <T M^T, X M^T> / |X M^T|^2.

    Args:
        layer: the one to be folded.
        factor: c, or ``None`` to fit it.
    """

    def __init__(self, layer: MonarchUpdate, factor: float | None) -> None:
        self.layer, self.given = layer, factor
        self.target = self.product = self.plain = 0.0

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        target, plain = self.layer.update(x).double(), self.layer.most(x).double()
        self.target += float((target * target).sum())
        self.product += float((target * plain).sum())
        self.plain += float((plain * plain).sum())

    @property
    def factor(self) -> float:
        """c."""
        if self.given is not None:
            return self.given
        return self.product / self.plain if self.plain > 0 else 1.0

    def update(self) -> tuple[Tensor, None]:
        return self.factor * self.layer.most.dense(), None

    def error(self, held_back: Calibration) -> float:
        assert isinstance(held_back, ScalarFit)
        if held_back.target == 0.0:
            return 0.0
        c = self.factor
        rest = held_back.target - 2 * c * held_back.product + c**2 * held_back.plain
        return math.sqrt(max(rest, 0.0) / held_back.target)


class MatrixFit(Calibration):
    """M C^T x + b for M K^p x, with C the ridge regression of T on X, drawn towards c I with c of :class:`ScalarFit`.

    C = (X^T X + rho I)^-1 (X^T T + rho c I), rho a thousandth of the mean diagonal of X^T X. Where the layer has a bias
    the means of X and T are removed first and b = M (mean T - C^T mean X); elsewhere b = 0.
    """

    def __init__(self, layer: MonarchUpdate) -> None:
        self.layer = layer
        self.scalar = ScalarFit(layer, None)
        size, device = layer.most.inputs, layer.base.weight.device
        self.xx, self.xt = (torch.zeros(size, size, dtype=torch.float64, device=device) for _ in range(2))
        self.x, self.t = (torch.zeros(size, dtype=torch.float64, device=device) for _ in range(2))
        self.count = 0

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        self.scalar.add(x)
        t = self.layer.rectified(x).flatten(0, -2).double()
        x = x.flatten(0, -2).double()
        self.xx += x.mT @ x
        self.xt += x.mT @ t
        self.x += x.sum(dim=0)
        self.t += t.sum(dim=0)
        self.count += len(x)

    def update(self) -> tuple[Tensor, Tensor | None]:
        dense = self.layer.most.dense()
        if self.count == 0:
            return dense, None
        xx, xt = self.xx, self.xt
        centered = self.layer.base.bias is not None
        if centered:
            xx = xx - torch.outer(self.x, self.x) / self.count
            xt = xt - torch.outer(self.x, self.t) / self.count
        identity = torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        ridge = RIDGE * xx.trace() / len(xx) * identity
        fitted = torch.linalg.solve(xx + ridge, xt + self.scalar.factor * ridge)
        bias = dense @ (self.t - fitted.mT @ self.x) / self.count if centered else None
        return dense @ fitted.mT, bias

    def error(self, held_back: Calibration) -> float:
        assert isinstance(held_back, MatrixFit)
        if held_back.scalar.target == 0.0:
            return 0.0
        dense, (weight, bias) = self.layer.most.dense(), self.update()
        rest = held_back.scalar.target
        rest += float((weight @ held_back.xx * weight).sum() - 2 * (weight @ held_back.xt * dense).sum())
        if bias is not None:
            rest += float(bias @ (held_back.count * bias + 2 * weight @ held_back.x - 2 * dense @ held_back.t))
        return math.sqrt(max(rest, 0.0) / held_back.scalar.target)
