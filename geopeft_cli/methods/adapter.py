"""Bottleneck adapters behind the two halves of every block (Houlsby et al., ICML 2019, arXiv 1902.00751)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from geopeft_cli.contracts import Backbone, BlockRole, Method, Wrapper, select_sites
from geopeft_cli.methods.dense import Dense, dense_layer, like, sizes

Places = Literal["both", "mlp"]
_ROLES: dict[Places, tuple[BlockRole, ...]] = {"both": ("attention_out", "mlp_out"), "mlp": ("mlp_out",)}


class Adapter(Method):
    """Not mergeable, geometry-free, step-0 identity; norms and a decoder stay as they are.

    Args:
        rank: r, hidden width of a bottleneck.
        places: behind the attention and the feed-forward layers of a block, or behind the latter (``mlp``) alone. Where
            one layer does the work of both, there is one bottleneck behind it.
    """

    name: ClassVar[str] = "adapter"

    def __init__(self, rank: int = 96, places: Places = "both") -> None:
        self.rank = rank
        self.places: Places = places

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "places": self.places}

    def attach(self, backbone: Backbone) -> None:
        for site in select_sites(backbone, _ROLES[self.places]):
            if site.block in backbone.encoder_blocks:
                site.replace(SerialAdapter(dense_layer(site), self.rank))


class SerialAdapter(Wrapper):
    """y + up(GELU(down y)) with y = base(x), the branch that is added to the residual stream; up is zero at the start.

    Args:
        base: the last layer of the branch.
        rank: r of down (r, C) and up (C, r), which have biases.
    """

    base: Dense
    unfoldable: ClassVar[str] = "there is a GELU in its bottleneck, which no weight of the layer can hold"

    def __init__(self, base: Dense, rank: int) -> None:
        super().__init__(base)
        width = sizes(base)[1]
        down, up = like(base, width, rank, bias=True), like(base, rank, width, bias=True)
        self.bottleneck = nn.Sequential(OrderedDict([("down", down), ("act", nn.GELU()), ("up", up)]))
        for zero in (down.bias, up.weight, up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y.add(self.bottleneck(y))
