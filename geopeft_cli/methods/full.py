"""Full fine-tuning: every parameter trains. The reference row of every table."""

from __future__ import annotations

from typing import Any, ClassVar

from geopeft_cli.contracts import Backbone, Method


class FullFineTuning(Method):
    """Nothing is added and nothing is frozen; BatchNorm statistics move."""

    name: ClassVar[str] = "full"

    def settings(self) -> dict[str, Any]:
        return {}

    def attach(self, backbone: Backbone) -> None:
        backbone.requires_grad_(True)
