"""What a recipe may say: every key, its type, its default and its range. Imports no torch.

Unknown keys are refused everywhere. Constructors below ``assemble`` take the plain values, not these objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from geopeft_cli.recipe.backbones import (
    WITHOUT_ATTENTION,
    BackboneSection,
    ObjectBackboneSection,
    SceneBackboneSection,
)
from geopeft_cli.recipe.data import (
    AnyObjectData,
    Augmentation,
    DataSettings,
    FolderData,
    ModelNetFewshotData,
    PackedData,
    S3DISBlocksData,
    ShapesData,
)
from geopeft_cli.recipe.methods import GEMSettings, MethodSection, PointPEFTSettings, PromptSettings
from geopeft_cli.recipe.scene_data import AnySceneData, SceneDataSettings, has_validation
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
    Switch,
    Text,
    mistake,
)


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


class VoxelSegmentationTask(SegmentationTask):
    """Classes of the points of whole scenes: a linear head on the features of voxels.

    ``lovasz`` weighs the Lovász-softmax loss beside the cross entropy. ``class_weights`` weigh the classes in the cross
    entropy: ``log`` by minus the logarithm of their share of the points, ``inverse_square_root`` by share^(-1/2);
    ``published`` are those of SemanticKITTI, for which no frame is read.
    """

    name: Literal["voxel_segmentation"]
    lovasz: NonNegativeNumber = 1.0
    class_weights: Literal["equal", "log", "inverse_square_root", "published"] = "equal"


TaskSection = Annotated[
    ClassificationTask | PartSegmentationTask | SceneSegmentationTask | VoxelSegmentationTask,
    Field(discriminator="name"),
]
DataSection = Annotated[AnyObjectData | AnySceneData, Field(discriminator="format")]

# Published sets with a label a point, and the task that they are for.
LABELED_FOR = {"shapenetpart": "part_segmentation", "s3dis_blocks": "scene_segmentation"}

# Networks without an official head for a label a point.
WITHOUT_POINT_HEAD = ("i2p_mae", "mamba3d", "point_mamba")


class GroupSettings(Section):
    """Parameters whose names fit the shell pattern ``match``: ``lr_scale`` times the rate, and their own decay.

    ``weight_decay`` is then that of all of them, whatever their shape; left out, they decay as the others do.
    """

    match: Text
    lr_scale: PositiveNumber = 1.0
    weight_decay: NonNegativeNumber | None = None


class OneCycleSettings(Section):
    """The rate rises from ``lr / start_division`` over the share ``warmup`` of all steps, then falls by a cosine to the
    start / ``end_division``; the momentum beta1 of AdamW moves the other way, from 0.95 to 0.85 and back."""

    warmup: Annotated[PositiveNumber, Field(lt=1)] = 0.05
    start_division: PositiveNumber = 10.0
    end_division: PositiveNumber = 1000.0


class TrainingSection(Section):
    """The loop. Rates are per epoch: ``cosine_lag`` is the published schedule (epochs + 1 passes), ``cosine`` starts
    at once and runs ``epochs`` passes. With ``one_cycle`` they are per step; the section of that name
    has its settings. ``groups`` are parameters with a rate or a decay of their own; where several fit a name, the first
    takes it.

    ``select`` says which weights are kept: the ``last`` epoch's, the best on the validation split, or the best on the
    test split, which is labelled so wherever its number is printed. ``optimizer_steps: 2`` steps once more before the
    gradient is clipped, as the released loops of segmentation do.
    """

    epochs: PositiveCount = 300
    batch_size: PositiveCount = 32
    lr: PositiveNumber = 5e-4
    weight_decay: NonNegativeNumber = 0.05
    schedule: Literal["cosine_lag", "cosine", "one_cycle"] = "cosine_lag"
    one_cycle: OneCycleSettings | None = None
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

    @model_validator(mode="after")
    def _settings_of_the_schedule_are_used(self) -> TrainingSection:
        cycles = self.schedule == "one_cycle"
        for key in ("warmup_epochs", "min_lr", "warmup_lr") if cycles else ("one_cycle",):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise mistake(key, f"has no meaning with schedule: {self.schedule}")
        return self


class EvaluationSection(Section):
    """What ``geopeft eval`` measures.

    ``voting`` adds figures in which the mean of the logits over ``views`` of a cloud decides: other points of it,
    changed by ``view_augment``. ``views`` votes once. ``published`` votes ``rounds`` times and reports the maximum too,
    by that name, as the released codes do. ``fragments`` is for scenes: the sum of the probabilities over samples that
    together hold every point, of every one of ``scene_views`` (``tta13`` is the published protocol).
    """

    split: Literal["train", "validation", "test"] = "test"
    batch_size: PositiveCount = 32
    voting: Literal["none", "views", "published", "fragments"] = "none"
    views: PositiveCount = 10
    rounds: PositiveCount = 299
    view_augment: tuple[Augmentation, ...] = ("scale_translate",)
    scene_views: Literal["single", "tta13", "tta12", "tta10", "rot4"] = "single"

    @model_validator(mode="after")
    def _settings_of_voting_are_used(self) -> EvaluationSection:
        of_objects = ("views", "rounds", "view_augment")
        others = {
            "none": (*of_objects, "scene_views"),
            "views": ("rounds", "scene_views"),
            "published": ("scene_views",),
            "fragments": of_objects,
        }[self.voting]
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


SCENE_FORMATS = tuple(
    str(name) for section in get_args(AnySceneData) for name in get_args(section.model_fields["format"].annotation)
)

# What recipes may leave out: names, and for scenes the published training of Sonata.
OBJECT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "backbone": {"name": "point_mae"},
    "task": {"name": "classification"},
}
SCENE_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "task": {"name": "voxel_segmentation"},
    "training": {
        "epochs": 100,
        "batch_size": 8,
        "lr": 2e-3,
        "weight_decay": 0.02,
        "schedule": "one_cycle",
        "clip_norm": 3.0,
    },
    "evaluation": {"batch_size": 1},
}


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

    @property
    def of_scenes(self) -> bool:
        """Whether it is about scenes, not about objects."""
        return isinstance(self.data, SceneDataSettings)

    @property
    def objects(self) -> DataSettings:
        """The data section of a recipe that is about objects, not about scenes."""
        assert isinstance(self.data, DataSettings)
        return self.data

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_data(cls, values: Any) -> Any:
        """Of objects and of scenes; sections that are no mappings stay as they are, to be refused."""
        if not isinstance(values, Mapping):
            return values
        data = values.get("data")
        of_scenes = isinstance(data, Mapping) and data.get("format") in SCENE_FORMATS
        defaults = SCENE_DEFAULTS if of_scenes else OBJECT_DEFAULTS
        merged = dict(values)
        for key, own in defaults.items():
            given = values.get(key, {})
            if isinstance(given, Mapping) and (key in values or key != "backbone"):
                merged[key] = {**own, **given}
        return merged

    @model_validator(mode="after")
    def _scenes_go_together(self) -> Recipe:
        of_scenes = self.of_scenes
        what = f"which are of {'scenes' if of_scenes else 'objects'}"
        if isinstance(self.backbone, SceneBackboneSection) != of_scenes:
            other = "sonata or ptv3" if of_scenes else "another network"
            raise mistake(
                "backbone.name", f"is {self.backbone.name}, and the data are {self.data.format}, {what}: use {other}"
            )
        if isinstance(self.task, VoxelSegmentationTask) != of_scenes:
            other = "voxel_segmentation" if of_scenes else "another task"
            raise mistake("task.name", f"is {self.task.name}, and the data are {self.data.format}, {what}: use {other}")
        weights = isinstance(self.task, VoxelSegmentationTask) and self.task.class_weights
        if weights == "published" and self.data.format != "semantic_kitti":
            raise mistake(
                "task.class_weights", f"is published, which is for semantic_kitti, not for {self.data.format}"
            )
        if (self.evaluation.voting == "fragments") > of_scenes:
            raise mistake("evaluation.voting", "is fragments, which is for scenes")
        if of_scenes and self.evaluation.voting in ("views", "published"):
            raise mistake("evaluation.voting", f"is {self.evaluation.voting}, which is for objects; use fragments")
        return self

    @model_validator(mode="after")
    def _segmentation_has_a_head(self) -> Recipe:
        if isinstance(self.task, PartSegmentationTask | SceneSegmentationTask):
            if self.backbone.name in WITHOUT_POINT_HEAD:
                raise mistake("task.name", f"is {self.task.name}, and {self.backbone.name} has no head for points")
            if isinstance(self.backbone, ObjectBackboneSection) and self.backbone.reconstruction:
                raise mistake("backbone.reconstruction", f"is for classification, not for {self.task.name}")
            if self.evaluation.voting != "none":
                raise mistake("evaluation.voting", f"is for classification, not for {self.task.name}")
        return self

    @model_validator(mode="after")
    def _points_have_the_labels(self) -> Recipe:
        task, data = self.task, self.data
        if isinstance(task, ClassificationTask | VoxelSegmentationTask):
            return self
        meant = LABELED_FOR.get(data.format, task.name)
        if meant != task.name:
            [other] = [name for name, own in LABELED_FOR.items() if own == task.name]
            raise mistake(
                "task.name",
                f"is {task.name}, and {data.format} is labeled for {meant}; use that task, or data such as {other}",
            )
        # whether a packed file has labels of points is known when it is read
        if data.format not in (*LABELED_FOR, "packed") and not getattr(data, "part_names", ()):
            hint = "give data.part_names, or use other data" if data.format == "folder" else "use other data"
            text = f"is {task.name}, which needs a label for every point, and this {data.format} data has none"
            raise mistake("task.name", f"{text}; {hint}, such as {', '.join(LABELED_FOR)} or packed")
        return self

    @model_validator(mode="after")
    def _the_method_fits(self) -> Recipe:
        method = self.method
        if (
            isinstance(method, PointPEFTSettings | PromptSettings | GEMSettings)
            and self.backbone.name in WITHOUT_ATTENTION
        ):
            raise mistake(
                "method.name", f"is {method.name}, which is for transformer blocks, and {self.backbone.name} has none"
            )
        if isinstance(method, PointPEFTSettings) and isinstance(self.backbone, SceneBackboneSection):
            raise mistake("method.name", f"is point_peft, which is for objects, and {self.backbone.name} reads scenes")
        remembers = isinstance(method, PointPEFTSettings) and method.prompt and method.bank
        if remembers and isinstance(self.task, SceneSegmentationTask):
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


def _has_validation(data: AnyObjectData | AnySceneData) -> bool:
    if isinstance(data, SceneDataSettings):
        return has_validation(data)
    if isinstance(data, ShapesData):
        return data.validation_per_class > 0
    if isinstance(data, FolderData | PackedData):
        return bool(data.split.validation)
    if isinstance(data, S3DISBlocksData):
        return data.validation_area is not None
    return not isinstance(data, ModelNetFewshotData) and data.validation > 0
