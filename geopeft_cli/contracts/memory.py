"""What a method keeps of the training clouds, to look up while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from geopeft_cli.contracts.naming import official_name


class Memory(nn.Module, ABC):
    """A vector for each of many training clouds; it is filled before training and stored in the adapter.

    Attributes:
        columns: buffer (D, N), empty until it is filled.
    """

    columns: Tensor

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that decide, beside the clouds and :meth:`sources`, what :meth:`describe` says."""

    @abstractmethod
    def sources(self) -> dict[str, Tensor]:
        """The tensors, by name, of the frozen network that :meth:`describe` asks."""

    @abstractmethod
    def describe(self, points: Tensor) -> Tensor:
        """The vectors (B, D), float32, of clouds (B, N, 3), of each by itself."""

    @abstractmethod
    def fill(self, vectors: Tensor, labels: Tensor) -> None:
        """Keep what is to be kept of all training clouds.

        Args:
            vectors: (clouds, D), in the order of the data.
            labels: int64 (clouds,).

        Raises:
            UsageError: there are too few clouds.
        """

    @abstractmethod
    def takes(self, columns: Tensor) -> bool:
        """Whether columns that were kept before, however many, may take the place of the present ones."""


def memories(model: nn.Module) -> dict[str, Memory]:
    """The memories of a model by official module name."""
    return {official_name(name): module for name, module in model.named_modules() if isinstance(module, Memory)}
