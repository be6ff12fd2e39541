"""Updates of dense layers that can be merged into their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from geopeft_cli.contracts.sites import Wrapper


@dataclass(frozen=True)
class DenseUpdate:
    """What is added to a dense layer.

    Attributes:
        weight: float64 (out, in).
        bias: float64 (out,), or ``None``.
    """

    weight: Tensor
    bias: Tensor | None = None


class Calibration(ABC):
    """What a layer learns from clouds for one of its approximate merge modes."""

    @abstractmethod
    def add(self, x: Tensor) -> None:
        """Take the tokens that reach the layer during a forward pass of the unmerged model."""

    @abstractmethod
    def update(self) -> tuple[Tensor, Tensor | None]:
        """Weight, float64 (out, in), and bias of the map that stands for the layer's update, its own bias left out."""

    @abstractmethod
    def error(self, held_back: Calibration) -> float:
        """|update - what stands for it| / |update|, fitted on this one's tokens, measured on those of another."""


class Foldable(Wrapper):
    """A wrapper around a dense layer whose update can, in some modes, be added to the base weight.

    ``exact_modes`` lists the modes that reproduce the wrapper's output up to rounding, the best first;
    ``approximate_modes`` those that do not, which must be asked for by name.
    """

    @property
    @abstractmethod
    def exact_modes(self) -> tuple[str, ...]: ...

    @property
    def approximate_modes(self) -> tuple[str, ...]:
        return ()

    def calibration(self, mode: str) -> Calibration:
        """An empty record for an approximate mode; layers without such modes have none."""
        raise NotImplementedError

    @abstractmethod
    def dense_update(self, mode: str, calibration: Calibration | None = None) -> DenseUpdate:
        """What a mode adds to the weight; for modes that keep something beside it, the weight's share."""

    @abstractmethod
    def folded(self, mode: str, calibration: Calibration | None = None) -> nn.Module:
        """The module that takes this wrapper's place after merging in ``mode``, one of its modes.

        Without a calibration it has the right form for a merged file to be loaded into.

        Raises:
            MergeError: a tensor is not finite, or the base layer cannot take the update.
        """
