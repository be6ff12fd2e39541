"""The ``method`` section of a recipe: one class per method, whose fields are the method's constructor arguments.

A contract test holds every class here against the method of the same name under ``geopeft_cli.methods``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geopeft_cli.recipe.types import (
    Count,
    Fraction,
    NonNegativeNumber,
    PositiveCount,
    PositiveNumber,
    Section,
    Switch,
    Text,
)

Targets = Annotated[tuple[Text, ...], Field(min_length=1)]
ALL_BLOCK_LAYERS: Targets = ("attention_in", "attention_out", "mlp_in", "mlp_out")


class MethodSettings(Section):
    """What every method has.

    ``tokens`` says whether class tokens and their positions train beside the method: ``train``, ``freeze``,
    or ``auto``, which is what the method's definition says.
    """

    tokens: Literal["auto", "train", "freeze"] = "auto"


class FullSettings(MethodSettings):
    """Every parameter trains."""

    name: Literal["full"]


class LinearProbeSettings(MethodSettings):
    """Only the head trains, and class tokens that the checkpoint does not hold."""

    name: Literal["linear_probe"]


class BitFitSettings(MethodSettings):
    """The biases that exist train (Ben Zaken et al., 2022). ``scope: blocks`` takes those of the blocks only."""

    name: Literal["bitfit"]
    scope: Literal["all", "blocks"] = "all"


class LoRASettings(MethodSettings):
    """A low-rank update beside frozen dense layers (Hu et al., 2022)."""

    name: Literal["lora"]
    rank: PositiveCount = 8
    alpha: PositiveNumber = 8.0
    dropout: Fraction = 0.0
    rslora: Switch = False
    targets: Targets = ALL_BLOCK_LAYERS


class MonarchSettings(MethodSettings):
    """A Monarch update beside frozen dense layers: MoST without its geometry."""

    name: Literal["monarch"]
    blocks: PositiveCount = 8
    bias: Switch = False
    dropout: Fraction = 0.0
    targets: Targets = ("attention_in", "mlp_in")


class MoSTSettings(MonarchSettings):
    """A Monarch update framed by K-Rectify (MoST, CVPR 2025).

    ``neighbors``, ``eps`` and ``lam`` define K = I + lam S; ``sides`` is how often K is applied: 0, 1 or 2.
    """

    name: Literal["most"]  # type: ignore[assignment]
    neighbors: PositiveCount = 4
    eps: PositiveNumber = 0.05
    lam: NonNegativeNumber = 0.5
    sides: Annotated[Count, Field(le=2)] = 2


MethodSection = Annotated[
    FullSettings | LinearProbeSettings | BitFitSettings | LoRASettings | MonarchSettings | MoSTSettings,
    Field(discriminator="name"),
]
