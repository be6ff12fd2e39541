"""What a backbone and a method are to each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from geopeft_cli.checkpoint_layout import CheckpointLayout
from geopeft_cli.contracts.sites import BLOCK_ROLES, WHOLE_ROLES, Site
from geopeft_cli.contracts.task import Task
from geopeft_cli.contracts.tokens import Geometry, Tokens
from geopeft_cli.errors import UsageError


class Backbone(nn.Module, ABC):
    """A pre-trained network under its official parameter names, and the root module of everything built on it.

    Attributes:
        name: the word for it in recipes.
        depth: number of blocks, of all stages.
        width: channels C of a token, in the last stage.
        feature_width: channels of the pooled feature that the head reads.
        head_layout: layout of the official classification head, a key of ``tasks.heads.HEADS``.
        point_head: layout of the official head for a label a point, a key of ``tasks.point_heads.POINT_HEADS``;
            ``None`` where there is none.
        layout: how its official checkpoints name the tensors.
        token_names: parameters that a pre-training checkpoint may lack and every recipe may train
            (class token and its position, or the final norm).
        dense: whether it is built as its authors' segmentation model is, which may have other tokens and norms.
        stand_ins: for roles that no layer of it has, the role that is taken where they are asked for.
        pretrained: values of parameters that differ in the network as it was pre-trained, by name.
    """

    name: ClassVar[str]
    layout: ClassVar[CheckpointLayout]
    head_layout: ClassVar[str]
    point_head: ClassVar[str | None] = None
    stand_ins: ClassVar[Mapping[str, str]] = {}
    token_names: tuple[str, ...] = ()
    dense: bool = False
    depth: int
    width: int
    feature_width: int

    def __init__(self) -> None:
        super().__init__()
        self.task: Task | None = None
        self.pretrained: dict[str, Tensor] = {}

    @property
    def fusion_blocks(self) -> range:
        """The blocks whose outputs may be fused before the head: those of the last stage, whose tokens are pooled."""
        return range(self.depth)

    @property
    def encoder_blocks(self) -> range:
        """The blocks of the pre-trained encoder, by the indices of their sites."""
        return range(self.depth)

    @property
    def head_norms(self) -> tuple[str, ...]:
        """The norms behind the blocks, through which the head reads them."""
        return ("norm",)

    @property
    def fewest_points(self) -> int:
        """The size of the smallest cloud that the backbone can cut into the groups of its first stage."""
        counts = (self.settings().get(name, 1) for name in ("groups", "group_size"))
        return max(count if isinstance(count, int) else count[0] for count in counts)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain values that rebuild this backbone: the arguments of its constructor."""

    @abstractmethod
    def sites(self) -> list[Site]:
        """Every attention and dense layer that a method may wrap, in the order of the forward pass."""

    def block_sites(self) -> list[Site]:
        """Every :class:`TransformerBlock` that a method may wrap as a whole, with role ``block``.

        The sequence that enters one ends with a token for each center of its level, in their order; the level may
        leave out tokens before that.
        """
        return []

    def regroup(self) -> None:
        """From now on cut clouds into groups as in pre-training."""

    def describe(self, points: Tensor, geometry: Geometry | None = None) -> Tensor:
        """What the network says of clouds (B, N, 3) without a head, (B, width).

        Args:
            points: the clouds.
            geometry: of a forward pass over the same clouds by a copy with the same frozen patch encoder.
        """
        tokens = self.encode(points)
        return tokens.spatial(tokens.features).amax(dim=1)

    @abstractmethod
    def encode(self, points: Tensor, layers: Sequence[int] = ()) -> Tokens:
        """Tokens of a batch of clouds (B, N, 3), with the raw outputs of the blocks named in ``layers``."""

    @abstractmethod
    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """The feature that the official head reads, (B, feature_width).

        Args:
            tokens: what :meth:`encode` returned.
            fused: (B, C), added to the part that is pooled over the spatial tokens.
        """

    def forward(self, points: Tensor, categories: Tensor | None = None) -> Tensor:
        """The task's prediction for a batch of clouds.

        Args:
            points: (B, N, 3).
            categories: int64 (B,), for tasks that are told what each cloud is; see :meth:`Task.conditions`.
        """
        if self.task is None:
            raise RuntimeError("attach a task before calling the backbone")
        return self.task.predict(self, points, categories)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, but BatchNorm whose weight is frozen keeps using and never moves its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not _trains(module.weight):
                module.eval()
        return self


def _trains(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


class Method(ABC):
    """A way of adapting a frozen backbone.

    Attributes:
        name: the word for it in recipes.
        trains_tokens: whether the backbone's class tokens train beside the method's own parameters when the
            recipe does not say: ``always``, or only ``fresh`` ones that the checkpoint does not hold.
    """

    name: ClassVar[str]
    trains_tokens: ClassVar[Literal["always", "fresh"]] = "always"

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain values that rebuild this method: the arguments of its constructor."""

    @property
    def is_identity_at_start(self) -> bool:
        """Whether a freshly attached method leaves every output as it is."""
        return True

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Put modules at sites of a frozen backbone and switch on ``requires_grad`` of what trains.

        Head and class tokens are not the method's business.

        Raises:
            UsageError: a target names no site, or a size does not fit a layer.
        """

    def start_epoch(self, epoch: int, epochs: int) -> None:  # noqa: B027 - most methods have no schedule
        """Called before every epoch, for methods with a schedule of their own, and before an adapter is loaded, with
        the epoch that it was kept from."""

    def is_settled(self, epoch: int, epochs: int) -> bool:
        """Whether the weights after an epoch may be the ones that are kept, as far as the method's schedule goes."""
        return True


def select_sites(backbone: Backbone, targets: Sequence[str]) -> list[Site]:
    """The dense layers that ``targets`` name: a role, ``all`` (those of the blocks), or a module path or its end.

    Raises:
        UsageError: a target matches no site.
    """
    sites = [site for site in backbone.sites() if site.role not in WHOLE_ROLES]
    chosen: dict[str, Site] = {}
    for target in targets:
        matches = [site for site in sites if _matches(site, backbone.stand_ins.get(target, target))]
        if not matches:
            roles = sorted({site.role for site in sites})
            ends = sorted({".".join(site.name.split(".")[-2:]) for site in sites})
            raise UsageError(
                f"method.targets: {target!r} matches no layer of {backbone.name}",
                f"Roles: all, {', '.join(roles)}. Layers: {', '.join(ends)}.",
            )
        chosen.update((site.name, site) for site in matches)
    return [site for site in sites if site.name in chosen]


def _matches(site: Site, target: str) -> bool:
    if target == "all":
        return site.role.removeprefix("query_") in BLOCK_ROLES
    return site.role == target or site.name == target or site.name.endswith("." + target)
