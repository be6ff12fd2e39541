"""A dense layer with a Monarch update behind K-Rectify, and what it becomes when it is merged."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Calibration, DenseUpdate, Foldable, Wrapper, current_level
from geopeft_cli.methods.dense import Dense, require_finite, with_update
from geopeft_cli.methods.fold_fits import MatrixFit, ScalarFit
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.methods.rectify import Rectify

APPROXIMATE = ("drop-k", "dc", "calibrated-scalar", "calibrated-matrix")


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
        # No backward pass needs the output of a dense layer, so the sum may take its place. Of rows the layer makes a
        # tensor, of anything else a view of one, and autograd copies all of a view that is added to.
        if isinstance(self.base, nn.Conv1d):
            y: Tensor = self.base(x)
            y.add_(self.most(self.dropout(x).transpose(1, 2)).transpose(1, 2))
            return y if self.most.bias is None else y.add_(self.most.bias[:, None])
        y = self.update(self.dropout(x), onto=self.base(x.flatten(0, -2)))
        y = y if self.most.bias is None else y.add_(self.most.bias)
        return y.reshape(*x.shape[:-1], self.most.outputs)

    def update(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """M K^p x, or M (K^p x - x) once M is in the base; (B, T, in) -> (B, T, out).

        With ``onto``, (B T, out) and not a view, the update is added to it in place, and it is returned.
        """
        if self.rectify.is_identity:
            return self.most(x, onto)  # type: ignore[no-any-return]
        if self.most.inputs > self.most.outputs:
            y = self.most(x)
            rectified = self.rectified(y)
            update = rectified - y if self.kept else rectified
            return update if onto is None else onto.add_(update.flatten(0, -2))
        rectified = self.rectified(x)
        return self.most(rectified - x if self.kept else rectified, onto)  # type: ignore[no-any-return]

    def rectified(self, x: Tensor) -> Tensor:
        """K^p x."""
        return self.rectify(x, current_level(self.level, self.site), self.site)

    @property
    def exact_modes(self) -> tuple[str, ...]:
        return ("exact",) if self.rectify.is_identity else ("keep-k", "stacked")

    @property
    def approximate_modes(self) -> tuple[str, ...]:
        return () if self.rectify.is_identity else APPROXIMATE

    def calibration(self, mode: str) -> Calibration:
        return MatrixFit(self) if mode == "calibrated-matrix" else ScalarFit(self, self._factor(mode))

    @torch.no_grad()
    def dense_update(self, mode: str, calibration: Calibration | None = None) -> DenseUpdate:
        if calibration is not None:
            weight, bias = calibration.update()
        else:
            weight, bias = (self._factor(mode) or 1.0) * self.most.dense(), None
        own = None if self.most.bias is None else self.most.bias.double()
        return DenseUpdate(weight, own if bias is None else bias if own is None else bias + own)

    def _factor(self, mode: str) -> float | None:
        """c of W + c M, ``None`` where it is to be fitted."""
        return {"calibrated-scalar": None, "dc": self.rectify.gain}.get(mode, 1.0)

    @torch.no_grad()
    def folded(self, mode: str, calibration: Calibration | None = None) -> nn.Module:
        update = self.dense_update(mode, calibration)
        if mode == "stacked":
            return StackedUpdate(self, update)
        if mode != "keep-k":
            return with_update(self.base, update)
        kept = copy.deepcopy(self)
        kept.kept = True
        if self.base.bias is None:
            update = DenseUpdate(update.weight)  # the bias stays beside the layer
        else:
            kept.most.bias = None
        kept.base = with_update(self.base, update)
        return kept


class StackedUpdate(Wrapper):
    """y = base([x, K^p x]), one layer of twice the inputs whose weight is [W, M]: a merged :class:`MonarchUpdate`."""

    base: nn.Linear

    def __init__(self, unmerged: MonarchUpdate, update: DenseUpdate) -> None:
        require_finite(update)
        former = unmerged.base
        assert isinstance(former, nn.Linear)  # a convolution reads no tokens, and K is the identity there
        biases = [bias for bias in (former.bias, update.bias) if bias is not None]
        stacked = nn.Linear(2 * former.in_features, former.out_features, bias=bool(biases))
        stacked.to(former.weight).requires_grad_(False)
        stacked.weight.copy_(torch.cat([former.weight, update.weight], dim=1))
        if biases:
            stacked.bias.copy_(torch.stack([bias.double() for bias in biases]).sum(dim=0))
        super().__init__(stacked)
        self.rectify, self.level, self.site = unmerged.rectify, unmerged.level, unmerged.site

    def forward(self, x: Tensor) -> Tensor:
        rectified = self.rectify(x, current_level(self.level, self.site), self.site)
        y: Tensor = self.base(torch.cat([x, rectified], dim=-1))
        return y
