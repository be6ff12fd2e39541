"""BitFit: only the biases that exist train (Ben Zaken et al., ACL 2022, arXiv 2106.10199)."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from geopeft_cli.contracts import Backbone, Method


class BitFit(Method):
    """Nothing is added, so merging is the identity; step-0 identity.

    Args:
        scope: ``all`` biases of the backbone, patch encoder and norms included, or those inside its ``blocks``.
    """

    name: ClassVar[str] = "bitfit"

    def __init__(self, scope: Literal["all", "blocks"] = "all") -> None:
        self.scope = scope

    def settings(self) -> dict[str, Any]:
        return {"scope": self.scope}

    def attach(self, backbone: Backbone) -> None:
        for name, parameter in backbone.named_parameters():
            inside = self.scope == "all" or re.search(r"(^|\.)block(s|\d+)\.", name)
            if inside and name.endswith(".bias"):
                parameter.requires_grad_(True)
