"""MoST: Monarch updates framed by a local smoothing of the tokens (CVPR 2025, arXiv 2503.18368).

y = base(x) + M K^p x + bias, with M a Monarch matrix on channels and K = I + lam S on tokens, S averaging each
token's nearest neighbors in space. K and M commute, so that the paper's K on both sides is one K^2, here applied
where the tensor is narrower. The code released with the paper does something else, which is :mod:`most_released`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from geopeft_cli.contracts import Backbone, Method, Site, select_sites
from geopeft_cli.errors import UsageError
from geopeft_cli.methods.blocks import DENSE
from geopeft_cli.methods.dense import dense_layer, sizes
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.methods.most_released import AdaBias, AdaBiasMode, GeneratorGraph, Init, PointMonarch, wrap_attentions
from geopeft_cli.methods.rectify import Rectify


class MoST(Method):
    """Step-0 identity. Merges exactly into the weights for lam = 0, else with the geometric remainder kept.

    Neither holds for ``variant="released"``; it reads ``blocks``, ``neighbors``, ``eps``, ``graph``, ``adabias``,
    ``init`` and ``generator_graph``.

    Args:
        blocks: b of the Monarch factors.
        neighbors: k of S, the token itself not counted.
        eps: added to the distance before inverting it: a length in the unit of the prepared clouds, or
            ``{"relative": factor}`` of the cloud's mean distance from a token to its nearest other.
        graph: ``full``, or ``causal``, where only tokens that stand earlier are neighbors.
        lam: weight of S in K = I + lam S.
        sides: p, how often K is applied: 2 is the paper's, 0 is plain Monarch.
        bias: whether the update has a bias, added behind K.
        dropout: on the input of the update, in training.
        targets: roles or names of the layers to adapt.
        factor: structure of the blocks of the Monarch factors, see :mod:`geopeft_cli.methods.blocks`.
        lam_schedule: ``to``, ``from_epoch`` and ``until_epoch`` of a cosine that takes lam there during training;
            without ``until_epoch`` it ends at the last epoch.
        variant: ``linear``, the above, or ``released``, see :mod:`geopeft_cli.methods.most_released`.
        adabias: correction of the released form: ``batch``, ``token`` or ``off``.
        init: start of its Monarch factors: ``kaiming_zero``, or ``zero_zero``, from which they never train.
        generator_graph: whose centers the tokens of a generator have in it: ``aligned``, their own, or ``released``,
            those of what they predict.
    """

    name: ClassVar[str] = "most"

    def __init__(
        self,
        blocks: int = 8,
        neighbors: int = 4,
        eps: float | Mapping[str, float] = 0.05,
        lam: float = 0.5,
        sides: int = 2,
        bias: bool = False,
        dropout: float = 0.0,
        targets: Sequence[str] = ("attention_in", "mlp_in"),
        factor: Mapping[str, Any] = DENSE,
        lam_schedule: Mapping[str, Any] | None = None,
        variant: Literal["linear", "released"] = "linear",
        adabias: AdaBiasMode = "token",
        init: Init = "kaiming_zero",
        generator_graph: GeneratorGraph = "aligned",
        graph: Literal["full", "causal"] = "full",
    ) -> None:
        self.blocks, self.bias, self.dropout, self.targets = blocks, bias, dropout, tuple(targets)
        self.factor, self.lam, self.lam_schedule = dict(factor), lam, lam_schedule
        self.eps = dict(eps) if isinstance(eps, Mapping) else eps
        self.graph = graph
        self.rectify = Rectify(neighbors, eps, lam, sides, causal=graph == "causal")
        self.variant, self.adabias, self.init, self.generator_graph = variant, adabias, init, generator_graph

    def settings(self) -> dict[str, Any]:
        return {
            "blocks": self.blocks,
            "bias": self.bias,
            "dropout": self.dropout,
            "targets": list(self.targets),
            "factor": self.factor,
            "neighbors": self.rectify.neighbors,
            "eps": self.eps,
            "graph": self.graph,
            "lam": self.lam,
            "sides": self.rectify.sides,
            "lam_schedule": self.lam_schedule,
            "variant": self.variant,
            "adabias": self.adabias,
            "init": self.init,
            "generator_graph": self.generator_graph,
        }

    @property
    def is_identity_at_start(self) -> bool:
        return self.variant == "linear" or self.adabias == "off"

    def attach(self, backbone: Backbone) -> None:
        if self.variant == "released":
            self._attach_released(backbone)
            return
        for site in select_sites(backbone, self.targets):
            rectify, layer = self._rectify_at(site), dense_layer(site)
            factors = MonarchFactors(*sizes(layer), self.blocks, self.bias, self.factor)
            site.replace(MonarchUpdate(layer, factors, rectify, site.level or 0, site.name, self.dropout))

    def _attach_released(self, backbone: Backbone) -> None:
        correction, rectify = AdaBias(self.adabias), self.rectify

        def branch(width: int) -> PointMonarch:
            return PointMonarch(
                width, self.blocks, rectify.neighbors, rectify.eps, correction, self.init, rectify.causal
            )

        wrap_attentions(backbone, branch, self.generator_graph)

    def _rectify_at(self, site: Site) -> Rectify:
        """K^p of a layer, which is K^0 on tokens that never have a center."""
        if site.role.startswith("query_") and site.level is None:
            return Rectify(self.rectify.neighbors, self.eps, self.lam, sides=0)
        if site.level is None and self.lam != 0 and self.rectify.sides != 0:
            raise UsageError(
                f"method.targets: {site.name} reads no tokens with centers, which K-Rectify needs",
                "Leave it out, or use method.sides=0.",
            )
        return self.rectify

    def start_epoch(self, epoch: int, epochs: int) -> None:
        self.rectify.lam = self.lam_in(epoch, epochs)

    def lam_in(self, epoch: int, epochs: int) -> float:
        """lam in an epoch, 0-based: constant, then half a cosine to the value of the schedule, which it reaches."""
        if self.lam_schedule is None:
            return self.lam
        first, last, end = self.lam_schedule["from_epoch"], self._last_of_schedule(epochs), self.lam_schedule["to"]
        if epoch >= last:
            return float(end)
        time = max(epoch - first, 0) / (last - first) if last > first else 0.0
        return float(end + (self.lam - end) * (1 + math.cos(math.pi * time)) / 2)

    def is_settled(self, epoch: int, epochs: int) -> bool:
        return self.lam_schedule is None or epoch >= self._last_of_schedule(epochs)

    def _last_of_schedule(self, epochs: int) -> int:
        assert self.lam_schedule is not None
        last = self.lam_schedule["until_epoch"]
        return epochs - 1 if last is None else min(int(last), epochs - 1)


class Monarch(MoST):
    """Plain Monarch updates: MoST without its geometry. Mergeable, step-0 identity."""

    name: ClassVar[str] = "monarch"

    def __init__(
        self,
        blocks: int = 8,
        bias: bool = False,
        dropout: float = 0.0,
        targets: Sequence[str] = ("attention_in", "mlp_in"),
        factor: Mapping[str, Any] = DENSE,
    ) -> None:
        super().__init__(blocks, lam=0.0, sides=0, bias=bias, dropout=dropout, targets=targets, factor=factor)

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings().items() if name in _MONARCH_SETTINGS}


_MONARCH_SETTINGS = ("blocks", "bias", "dropout", "targets", "factor")
