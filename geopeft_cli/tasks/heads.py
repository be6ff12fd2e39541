"""The classification heads of the object backbones, as ``nn.Sequential`` with the official indices."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

HIDDEN = 256


def mlp3(features: int, classes: int) -> nn.Sequential:
    """Three layers with BatchNorm: 256 features + 67,072 + 257 classes parameters."""
    return nn.Sequential(
        nn.Linear(features, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, classes),
    )


def mlp2(features: int, classes: int) -> nn.Sequential:
    """Two layers without BatchNorm: 256 features + 256 + 257 classes parameters."""
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, classes))


def linear(features: int, classes: int) -> nn.Sequential:
    """One layer: features x classes + classes parameters."""
    return nn.Sequential(nn.Linear(features, classes))


HEADS: dict[str, Callable[[int, int], nn.Sequential]] = {"mlp3": mlp3, "mlp2": mlp2, "linear": linear}
