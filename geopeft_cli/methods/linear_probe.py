"""Linear probe: the backbone is frozen, only the head trains, and class tokens that the checkpoint lacks.

The point-cloud literature uses the name also for the official three-layer head; ``task.head`` says which is meant.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from geopeft_cli.contracts import Backbone, Method


class LinearProbe(Method):
    """Nothing is added; step-0 identity."""

    name: ClassVar[str] = "linear_probe"
    trains_tokens: ClassVar[Literal["always", "fresh"]] = "fresh"

    def settings(self) -> dict[str, Any]:
        return {}

    def attach(self, backbone: Backbone) -> None:
        """Leaves the backbone frozen: the head belongs to the task."""
