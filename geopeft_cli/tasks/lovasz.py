"""The Lovász-softmax loss (Berman et al., CVPR 2018, arXiv 1705.08790): a surrogate for the intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes that occur among the labels, a scalar; zero without labels.

    Args:
        probabilities: (N, classes).
        labels: int64 (N,), each a class.
    """
    losses = []
    for one in labels.unique().tolist():
        foreground = (labels == one).to(probabilities.dtype)
        errors, order = (foreground - probabilities[:, one]).abs().sort(descending=True, stable=True)
        losses.append(errors.dot(_gradient(foreground[order])))  # @ would be of half precision under autocast
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


def _gradient(foreground: Tensor) -> Tensor:
    """Of the Lovász extension of the Jaccard loss, at errors that fall; ``foreground`` (N,) is 0 or 1."""
    total = foreground.sum()
    jaccard = 1 - (total - foreground.cumsum(0)) / (total + (1 - foreground).cumsum(0))
    return torch.cat([jaccard[:1], jaccard.diff()])
