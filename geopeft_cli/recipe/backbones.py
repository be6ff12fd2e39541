"""The ``backbone`` section of a recipe: networks that read objects, and networks that read scenes. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from geopeft_cli.recipe.types import (
    Count,
    Fraction,
    NonNegativeNumber,
    PositiveCount,
    Section,
    Sha256,
    Text,
    mistake,
)

Counts = Annotated[
    Annotated[PositiveCount, Tag("<number>")] | Annotated[tuple[PositiveCount, ...], Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, (list, tuple)) else "<number>"),
]

# Networks with stages, and what their recipes may leave out.
STAGED = ("point_m2ae", "i2p_mae")
STAGES: Mapping[str, Any] = {"groups": (512, 256, 64), "group_size": (32, 16, 16), "radius": (0.32, 0.64, 1.28)}

# Settings that not every network has.
WITHOUT_ATTENTION = ("mamba3d", "point_mamba")
ONLY_OF = {
    "radius": STAGED,
    "pooling": STAGED,
    "reconstruction": ("point_gpt",),
    "dropout": ("point_mamba",),
    "variant": WITHOUT_ATTENTION,
}


class PretrainedSection(Section):
    """The pre-trained network.

    ``checkpoint`` is a path, ``https://…`` (with ``sha256``), ``hf://owner/repo/file`` or ``embedded:NAME``.
    """

    checkpoint: Text
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _downloads_are_verified(self) -> PretrainedSection:
        if self.checkpoint.startswith("http://"):
            raise mistake("checkpoint", "must be an https:// address, is http://")
        if self.checkpoint.startswith("https://") and self.sha256 is None:
            raise mistake("checkpoint", "is a download and needs the key 'backbone.sha256' beside it")
        return self


class ObjectBackboneSection(PretrainedSection):
    """A network that reads clouds of objects.

    ``width``, ``depth`` and ``heads`` are read from the checkpoint; given here, they are checked against it.
    ``reconstruction`` weighs PointGPT's generator in the training loss (3 if not given); 0 leaves it out.
    ``dropout`` is that of PointMamba's tokens after every block.
    ``variant: released`` lets the clouds of a batch bear on each other as in the released code of Mamba3D (statistics)
    and PointMamba (depth of the curves).
    ``near_origin: keep`` lets farthest point sampling choose points within 0.0316 of the origin.

    Networks with stages have lists in ``groups``, ``group_size`` and ``radius``, an entry a stage. ``radius`` is the
    distance within which tokens attend to each other, 0 for everywhere. ``pooling`` is what the head reads of mean and
    maximum; left out, what the network's published head for ScanObjectNN does.
    """

    name: Literal[
        "point_mae", "point_bert", "act", "recon", "point_gpt", "point_m2ae", "i2p_mae", "mamba3d", "point_mamba"
    ]
    groups: Counts = 64
    group_size: Counts = 32
    radius: tuple[NonNegativeNumber, ...] | None = None
    pooling: Literal["sum", "concat", "concat_rest"] | None = None
    width: PositiveCount | None = None
    depth: PositiveCount | None = None
    heads: PositiveCount | None = None
    drop_path: Fraction = 0.1
    near_origin: Literal["skip", "keep"] = "skip"
    reconstruction: NonNegativeNumber | None = None
    dropout: Fraction = 0.0
    variant: Literal["per_sample", "released"] = "per_sample"

    @model_validator(mode="after")
    def _settings_fit_the_network(self) -> ObjectBackboneSection:
        for key, networks in ONLY_OF.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.name not in networks:
                raise mistake(key, f"is for {' and '.join(networks)}, not for {self.name}")
        if self.heads is not None and self.name in WITHOUT_ATTENTION:
            raise mistake("heads", f"is for networks with attention, which {self.name} has not")
        return self

    @model_validator(mode="before")
    @classmethod
    def _stages_have_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("name") in STAGED:
            return {**STAGES, **values}
        return values

    @model_validator(mode="after")
    def _stages_agree(self) -> ObjectBackboneSection:
        if self.name not in STAGED:
            for key in ("groups", "group_size"):
                if isinstance(getattr(self, key), tuple):
                    raise mistake(key, f"is a list, which is for networks with stages; {self.name} has one stage")
            return self
        groups, sizes = self.groups, self.group_size
        for key in ("groups", "group_size", "radius"):
            values = getattr(self, key)
            if not isinstance(values, tuple) or len(values) != len(STAGES[key]):
                raise mistake(key, f"must be a list of {len(STAGES[key])} values, one for each stage of {self.name}")
        assert isinstance(groups, tuple)
        assert isinstance(sizes, tuple)
        for stage, (before, count, size) in enumerate(zip(groups, groups[1:], sizes[1:], strict=False), start=1):
            if max(count, size) > before:
                key = "groups" if count > before else "group_size"
                raise mistake(key, f"takes {max(count, size)} of the {before} tokens before stage {stage}")
        return self


class SceneBackboneSection(PretrainedSection):
    """A network that reads scenes.

    Its sizes are read from the checkpoint. ``decoder: fresh`` puts a new decoder behind an encoder, which trains beside
    any method; ``checkpoint`` takes the file's, if it has one. ``stem: fresh`` starts the first layer anew, for other
    features than those of the pre-training, and trains it. ``drop_path`` is that of the last block in training.
    ``patch_size`` are the voxels that attend to each other, by default those of the pre-training. The last five are
    explained in docs/scenes.md.
    """

    name: Literal["ptv3", "sonata"]
    decoder: Literal["checkpoint", "fresh"] = "checkpoint"
    stem: Literal["checkpoint", "fresh"] = "checkpoint"
    drop_path: Fraction = 0.0
    patch_size: PositiveCount | None = None
    upcast: Count | None = None
    shuffle_orders: Literal["train", "always", "never"] = "train"
    serialization_depth: Literal["scene", "batch"] = "scene"
    attention_patches: Literal["varlen", "legacy_min"] = "varlen"
    convolution: Literal["torch", "spconv"] = "torch"
    attention: Literal["torch", "flash"] = "torch"


BackboneSection = Annotated[ObjectBackboneSection | SceneBackboneSection, Field(discriminator="name")]
