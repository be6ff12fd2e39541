"""The ``method`` section of a recipe: one class per method, whose fields are the method's constructor arguments.

A contract test holds every class here against the method of the same name under ``geopeft_cli.methods``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from geopeft_cli.recipe.types import (
    Count,
    Fraction,
    NonNegativeNumber,
    PositiveCount,
    PositiveNumber,
    Section,
    Switch,
    Text,
    mistake,
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


class AdapterSettings(MethodSettings):
    """Bottlenecks behind the attention and the feed-forward layers of every block (Houlsby et al., 2019).

    ``places: mlp`` leaves out those behind the attention.
    """

    name: Literal["adapter"]
    rank: PositiveCount = 96
    places: Literal["both", "mlp"] = "both"


class PromptSettings(MethodSettings):
    """Prefix tuning: ``length`` trained keys and values in every attention (Li and Liang, 2021)."""

    name: Literal["prompt"]
    length: PositiveCount = 384


class DenseFactor(Section):
    """Blocks with a parameter for every entry."""

    type: Literal["dense"]


class LowRankFactor(Section):
    """Blocks of low rank; ``rank`` is clipped to the smaller side of a block."""

    type: Literal["low_rank"]
    rank: PositiveCount


class KroneckerFactor(Section):
    """Blocks A kron B. ``sizes`` is the shape of A; left out, it is chosen for each factor."""

    type: Literal["kronecker"]
    sizes: tuple[PositiveCount, PositiveCount] | None = None


Factor = Annotated[DenseFactor | LowRankFactor | KroneckerFactor, Field(discriminator="type")]


class MonarchSettings(MethodSettings):
    """A Monarch update beside frozen dense layers: MoST without its geometry.

    ``factor`` is the structure of the diagonal blocks of both Monarch factors.
    """

    name: Literal["monarch"]
    blocks: PositiveCount = 8
    bias: Switch = False
    dropout: Fraction = 0.0
    targets: Targets = ("attention_in", "mlp_in")
    factor: Factor = DenseFactor(type="dense")


class LamSchedule(Section):
    """``lam`` goes ``to`` a value by a cosine from ``from_epoch`` until ``until_epoch``, or until the last epoch."""

    to: NonNegativeNumber = 0.0
    from_epoch: Count = 0
    until_epoch: PositiveCount | None = None

    @model_validator(mode="after")
    def _ends_behind_its_start(self) -> LamSchedule:
        if self.until_epoch is not None and self.until_epoch <= self.from_epoch:
            raise mistake("until_epoch", f"must be above from_epoch, {self.from_epoch}, is {self.until_epoch}")
        return self


LINEAR_ONLY = ("bias", "dropout", "targets", "factor", "lam", "sides", "lam_schedule")
RELEASED_ONLY = ("adabias", "init", "generator_graph")


class RelativeEps(Section):
    """``relative`` times the mean distance from a token to its nearest other, of every cloud by itself."""

    relative: PositiveNumber


Eps = Annotated[
    Annotated[PositiveNumber, Tag("<length>")] | Annotated[RelativeEps, Tag("<relative>")],
    Discriminator(lambda value: "<relative>" if isinstance(value, (Mapping, RelativeEps)) else "<length>"),
]


class MoSTSettings(MonarchSettings):
    """A Monarch update framed by K-Rectify (MoST, CVPR 2025).

    ``neighbors``, ``eps`` and ``lam`` define K = I + lam S; ``sides`` is how often K is applied: 0, 1 or 2. Where
    ``lam_schedule`` takes ``lam`` to 0, the update folds exactly into the weights. ``graph: causal`` leaves of the
    neighbors those that stand earlier. ``variant: released`` is the form of the released code instead, which has
    ``RELEASED_ONLY`` and does without ``LINEAR_ONLY``.
    """

    name: Literal["most"]  # type: ignore[assignment]
    variant: Literal["linear", "released"] = "linear"
    neighbors: PositiveCount = 4
    eps: Eps = 0.05
    lam: NonNegativeNumber = 0.5
    sides: Annotated[Count, Field(le=2)] = 2
    lam_schedule: LamSchedule | None = None
    graph: Literal["full", "causal"] = "full"
    # YAML 1.1 reads off as false
    adabias: Annotated[
        Literal["batch", "token", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "token"
    init: Literal["kaiming_zero", "zero_zero"] = "kaiming_zero"
    generator_graph: Literal["aligned", "released"] = "aligned"

    @model_validator(mode="after")
    def _other_variants_keys_stay_at_their_defaults(self) -> MoSTSettings:
        others, owner = (RELEASED_ONLY, "released") if self.variant == "linear" else (LINEAR_ONLY, "linear")
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise mistake(key, f"is for variant: {owner}, not {self.variant}")
        return self


class PointPEFTSettings(MethodSettings):
    """Prompts that remember similar training clouds, and an adapter that knows neighborhoods (AAAI 2024).

    ``prompt``, ``bank`` and ``adapter`` switch its parts; the bank needs prompts. ``variant: released`` has the indices
    of the released code, which reach into other clouds of the batch; ``aligned`` takes tokens and centers that belong
    together.
    """

    name: Literal["point_peft"]
    variant: Literal["per_sample", "aligned", "released"] = "per_sample"
    prompt: Switch = True
    prompts: PositiveCount = 10
    prompted_blocks: PositiveCount | None = None
    bank: Switch = True
    bank_per_class: PositiveCount | None = None
    bank_precision: Literal["fp32", "fp16"] = "fp32"
    adapter: Switch = True
    bottleneck: PositiveCount = 16
    attention_width: PositiveCount = 18
    attention_heads: PositiveCount = 6
    neighbors: PositiveCount = 16
    ffn_scale: NonNegativeNumber = 0.7
    ffn_gate: NonNegativeNumber = 1.0
    center: NonNegativeNumber = 0.3
    propagate: NonNegativeNumber = 0.3
    pooling: Literal["max", "maxmean"] = "max"
    dropout: Fraction = 0.1
    init: Literal["released", "identity"] = "released"

    @model_validator(mode="after")
    def _sizes_fit(self) -> PointPEFTSettings:
        if self.prompt and self.bank and self.prompts < 3:
            raise mistake("prompts", f"must be at least 3 with a bank, of which 2 look nothing up, is {self.prompts}")
        if self.attention_width % self.attention_heads:
            raise mistake("attention_heads", f"must divide attention_width, {self.attention_width}")
        return self


class GEMSettings(MethodSettings):
    """A sparse convolution and latents that read the whole scene beside every block (GEM, NeurIPS 2025).

    ``stages`` counts from 0; left out, all of the encoder are adapted. ``voxel`` is the edge of a voxel around the
    centers of tokens, in units of the cloud, on networks that read clouds; left out, it follows their number. Scenes
    have voxels of their own.
    """

    name: Literal["gem"]
    rank: PositiveCount = 32
    latents: PositiveCount = 4
    kernel: PositiveCount = 3
    spatial: Switch = True
    context: Switch = True
    share: Literal["global", "stage", "none"] = "global"
    tie_kv: Switch = True
    act: Literal["relu", "gelu"] = "relu"
    scale: PositiveNumber | None = None
    context_bias: Switch = False
    stages: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    voxel: PositiveNumber | None = None

    @model_validator(mode="after")
    def _adapts_something(self) -> GEMSettings:
        if not (self.spatial or self.context):
            raise mistake("context", "must be true where spatial is false, or nothing is adapted")
        if self.kernel % 2 == 0:
            raise mistake("kernel", f"must be odd, is {self.kernel}")
        return self


MethodSection = Annotated[
    FullSettings
    | LinearProbeSettings
    | BitFitSettings
    | LoRASettings
    | AdapterSettings
    | PromptSettings
    | MonarchSettings
    | MoSTSettings
    | PointPEFTSettings
    | GEMSettings,
    Field(discriminator="name"),
]
