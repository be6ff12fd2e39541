"""What a recipe may say: every key, its type, its default and its range. Imports no torch.

Unknown keys are refused everywhere. Constructors below ``assemble`` take the plain values, not these objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from geopeft_cli.recipe.data import (
    Augmentation,
    DataSection,
    FolderData,
    ModelNetFewshotData,
    PackedData,
    S3DISBlocksData,
    ShapesData,
)
from geopeft_cli.recipe.methods import MethodSection, PointPEFTSettings, PromptSettings
from geopeft_cli.recipe.types import (
    Count,
    Device,
    Fraction,
    Name,
    NonNegativeNumber,
    Number,
    PositiveCount,
    PositiveNumber,
    Section,
    Sha256,
    Switch,
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


class BackboneSection(Section):
    """The pre-trained network.

    ``checkpoint`` is a path, ``https://…`` (with ``sha256``), ``hf://owner/repo/file`` or ``embedded:NAME``.
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
    ] = "point_mae"
    checkpoint: Text
    sha256: Sha256 | None = None
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
    def _settings_fit_the_network(self) -> BackboneSection:
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
    def _stages_agree(self) -> BackboneSection:
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

    @model_validator(mode="after")
    def _downloads_are_verified(self) -> BackboneSection:
        if self.checkpoint.startswith("http://"):
            raise mistake("checkpoint", "must be an https:// address, is http://")
        if self.checkpoint.startswith("https://") and self.sha256 is None:
            raise mistake("checkpoint", "is a download and needs the key 'backbone.sha256' beside it")
        return self


class FusionSettings(Section):
    """Multi-layer feature fusion before the head (MoST): ``layers`` evenly spaced blocks, 0 for none."""

    layers: Count = 0
    affine: Switch = False


class ClassificationTask(Section):
    """``head`` is ``mlp`` (the official head of the backbone) or ``linear``.

    ``head_from`` takes the head of a fine-tuned checkpoint (``checkpoint``) or starts a new one (``fresh``).
    """

    name: Literal["classification"] = "classification"
    head: Literal["mlp", "linear"] = "mlp"
    head_from: Literal["fresh", "checkpoint"] = "fresh"
    label_smoothing: Fraction = 0.0
    fusion: FusionSettings = FusionSettings()


class SegmentationTask(Section):
    """A label for every point, by the official head of the backbone; ``head_from`` as for classification."""

    head_from: Literal["fresh", "checkpoint"] = "fresh"


class PartSegmentationTask(SegmentationTask):
    """Parts of objects whose category is given: the head is told it, and only its parts are predicted."""

    name: Literal["part_segmentation"]


class SceneSegmentationTask(SegmentationTask):
    """Classes of the points of a scene. ``class_weights: cube_root`` weighs each by (largest share / own)^(1/3) in the
    loss."""

    name: Literal["scene_segmentation"]
    class_weights: Literal["equal", "cube_root"] = "equal"


TaskSection = Annotated[ClassificationTask | PartSegmentationTask | SceneSegmentationTask, Field(discriminator="name")]

# Networks without an official head for a label a point.
WITHOUT_POINT_HEAD = ("i2p_mae", "mamba3d", "point_mamba")


class GroupSettings(Section):
    """Parameters whose names fit the shell pattern ``match``: ``lr_scale`` times the rate, and their own decay.

    ``weight_decay`` is then that of all of them, whatever their shape; left out, they decay as the others do.
    """

    match: Text
    lr_scale: PositiveNumber = 1.0
    weight_decay: NonNegativeNumber | None = None


class TrainingSection(Section):
    """The loop. Rates are per epoch: ``cosine_lag`` is the published schedule (epochs + 1 passes), ``cosine`` starts
    at once and runs ``epochs`` passes. ``groups`` are parameters with a rate or a decay of their own; where several
    fit a name, the first takes it.

    ``select`` says which weights are kept: the ``last`` epoch's, the best on the validation split, or the best on the
    test split, which is labelled so wherever its number is printed. ``optimizer_steps: 2`` steps once more before the
    gradient is clipped, as the released loops of segmentation do.
    """

    epochs: PositiveCount = 300
    batch_size: PositiveCount = 32
    lr: PositiveNumber = 5e-4
    weight_decay: NonNegativeNumber = 0.05
    schedule: Literal["cosine_lag", "cosine"] = "cosine_lag"
    warmup_epochs: Count = 10
    min_lr: NonNegativeNumber = 1e-6
    warmup_lr: NonNegativeNumber = 1e-6
    groups: tuple[GroupSettings, ...] = ()
    clip_norm: PositiveNumber | None = 10.0
    accumulation: PositiveCount = 1
    optimizer_steps: Annotated[PositiveCount, Field(le=2)] = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Device = "auto"
    threads: PositiveCount | None = None
    select: Literal["last", "best_validation", "best_test"] = "last"
    evaluate_every: PositiveCount = 1
    checkpoint_every: PositiveCount = 1
    tensorboard: Switch = False

    @model_validator(mode="after")
    def _scaled_gradients_step_once(self) -> TrainingSection:
        if self.optimizer_steps > 1 and self.precision == "fp16":
            raise mistake("optimizer_steps", "must be 1 with precision fp16, whose scaled gradients are used once")
        return self


class EvaluationSection(Section):
    """What ``geopeft eval`` measures.

    ``voting`` adds figures in which the mean of the logits over ``views`` of a cloud decides: other points of it,
    changed by ``view_augment``. ``views`` votes once. ``published`` votes ``rounds`` times and reports the maximum too,
    by that name, as the released codes do.
    """

    split: Literal["train", "validation", "test"] = "test"
    batch_size: PositiveCount = 32
    voting: Literal["none", "views", "published"] = "none"
    views: PositiveCount = 10
    rounds: PositiveCount = 299
    view_augment: tuple[Augmentation, ...] = ("scale_translate",)

    @model_validator(mode="after")
    def _settings_of_voting_are_used(self) -> EvaluationSection:
        others = {"none": ("views", "rounds", "view_augment"), "views": ("rounds",)}.get(self.voting, ())
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise mistake(key, f"has no meaning with voting: {self.voting}")
        if "rotate_y_batch" in self.view_augment:
            raise mistake("view_augment", "is for each cloud, and rotate_y_batch is for whole batches; use rotate_y")
        return self


class Published(Section):
    """A number from the literature that a recipe is held against, with where it stands and under which protocol."""

    metric: str
    value: Number
    source: str
    protocol: str


class Recipe(Section):
    """One experiment."""

    name: Name
    description: str = ""
    seed: Count = 0
    data: DataSection
    backbone: BackboneSection
    method: MethodSection
    task: TaskSection = ClassificationTask()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    published: tuple[Published, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _the_task_is_classification(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(task := values.get("task"), Mapping) and "name" not in task:
            return {**values, "task": {"name": "classification", **task}}
        return values

    @model_validator(mode="after")
    def _segmentation_has_a_head(self) -> Recipe:
        if isinstance(self.task, PartSegmentationTask | SceneSegmentationTask):
            if self.backbone.name in WITHOUT_POINT_HEAD:
                raise mistake("task.name", f"is {self.task.name}, and {self.backbone.name} has no head for points")
            if self.backbone.reconstruction:
                raise mistake("backbone.reconstruction", f"is for classification, not for {self.task.name}")
            if self.evaluation.voting != "none":
                raise mistake("evaluation.voting", f"is for classification, not for {self.task.name}")
        return self

    @model_validator(mode="after")
    def _prompts_fit(self) -> Recipe:
        method, backbone = self.method, self.backbone.name
        if isinstance(method, PointPEFTSettings | PromptSettings) and backbone in WITHOUT_ATTENTION:
            raise mistake("method.name", f"is {method.name}, which is for transformer blocks, and {backbone} has none")
        has_bank = isinstance(method, PointPEFTSettings) and method.prompt and method.bank
        if has_bank and isinstance(self.task, SceneSegmentationTask):
            raise mistake(
                "method.bank",
                "must be false for scene_segmentation: a bank remembers whole objects, not pieces of scenes",
            )
        return self

    @model_validator(mode="after")
    def _splits_exist(self) -> Recipe:
        if self.training.select == "best_validation" and not _has_validation(self.data):
            raise mistake("training.select", "is best_validation, but the data section has no validation split")
        if self.evaluation.split == "validation" and not _has_validation(self.data):
            raise mistake("evaluation.split", "is validation, but the data section has no validation split")
        return self


def _has_validation(data: DataSection) -> bool:
    if isinstance(data, ShapesData):
        return data.validation_per_class > 0
    if isinstance(data, FolderData | PackedData):
        return bool(data.split.validation)
    if isinstance(data, S3DISBlocksData):
        return data.validation_area is not None
    return not isinstance(data, ModelNetFewshotData) and data.validation > 0
