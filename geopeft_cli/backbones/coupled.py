"""Backbones whose released code lets the clouds of a batch bear on each other."""

from __future__ import annotations

import logging
from typing import Literal

from geopeft_cli.contracts import Backbone

logger = logging.getLogger("geopeft")

Variant = Literal["per_sample", "released"]


class CoupledBackbone(Backbone):
    """A backbone with a ``variant``: what its released code takes from a whole batch is each cloud's own here.

    Args:
        variant: ``released`` computes as the released code does; predictions then depend on the batch.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self._has_warned = False

    def train(self, mode: bool = True) -> CoupledBackbone:
        """As that of every backbone; says once when the batch comes into predictions."""
        if not mode and self.variant == "released" and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "backbone.variant is released: in evaluation too, the prediction for a cloud depends on the other "
                "clouds of its batch, on their order and number; backbone.variant=per_sample does without"
            )
        super().train(mode)
        return self
