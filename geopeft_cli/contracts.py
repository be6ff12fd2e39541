"""The nouns that every room shares: sites, tokens, geometry, backbones, methods, tasks.

A backbone lists its *sites*; a *method* wraps the modules at some of them; a *task* gives the backbone its head. None
of the three knows the others by name. The backbone stays the root module throughout, so that state-dict names are the
official ones apart from the ``base`` that every wrapper inserts, which :func:`official_name` removes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from geopeft_cli.checkpoint_layout import CheckpointLayout as CheckpointLayout
from geopeft_cli.errors import GeometryError, ShapeError, UsageError

BlockRole = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
# In a second stream of tokens, which have no centers and read those that do.
QueryRole = Literal["query_attention_in", "query_attention_out", "query_mlp_in", "query_mlp_out"]
Role = Literal["attention", BlockRole, QueryRole, "scan", "local", "position", "patch_embedding"]
BLOCK_ROLES: tuple[BlockRole, ...] = get_args(BlockRole)

T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """A named module of a backbone where a method may attach: a dense layer, or a whole attention.

    Attributes:
        name: the official module path, for example ``blocks.blocks.0.attn.qkv``.
        role: what the module does, the same word on every backbone; all but ``attention`` are dense layers.
        block: index of the transformer block that holds it, -1 outside the blocks.
        level: index into ``Geometry.levels`` of the tokens that flow through it, ``None`` where it reads no
            sequence of tokens (patch encoder, position encoding, pooling over neighbors) or tokens without centers
            alone (queries).
        owner: the module that holds the layer.
        attribute: the name under which ``owner`` holds it.
    """

    name: str
    role: Role
    block: int
    level: int | None
    owner: nn.Module
    attribute: str

    @property
    def module(self) -> nn.Module:
        """The module that is at the site now: the original or what a method put there."""
        module: nn.Module = getattr(self.owner, self.attribute)
        return module

    def replace(self, module: nn.Module) -> None:
        """Put ``module``, which must have the call signature of the present one, at the site."""
        setattr(self.owner, self.attribute, module)


class Wrapper(nn.Module):
    """A module at a site that holds the one it replaced as ``base`` and has its call signature.

    ``unfoldable`` says why it cannot be merged, where it is not :class:`Foldable` by its definition.
    """

    base: nn.Module
    unfoldable: ClassVar[str] = ""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base


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


def registered(reference: str) -> Any:
    """What a registry's ``"module:Name"`` refers to, imported now."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def official_name(name: str) -> str:
    """A parameter, buffer or module name without the ``base`` levels that wrappers insert."""
    return ".".join(part for part in name.split(".") if part != "base")


class Level:
    """The tokens of one stage of the current forward pass.

    Args:
        centers: (B, G, 3), coordinates as the network sees them.
        slots: int64 (T,), for every place in the sequence the index of its center, -1 for tokens without one; (B, T)
            where every cloud has an order of its own. A center may stand in several places.
    """

    def __init__(self, centers: Tensor, slots: Tensor) -> None:
        self.centers = centers
        self.slots = slots
        self._memo: dict[Any, Any] = {}

    @property
    def described(self) -> str:  # for messages
        return f"{self.slots.shape[-1]} a cloud"

    def describes(self, x: Tensor) -> bool:
        """Whether ``x`` has the shape of the level's tokens, (B, T, C)."""
        return x.ndim == 3 and x.shape[1] == self.slots.shape[-1]

    def memo(self, key: Any, build: Callable[[], T]) -> T:
        """``build()`` at the first call with ``key``, its result at every later one of this forward pass."""
        if key not in self._memo:
            self._memo[key] = build()
        value: T = self._memo[key]
        return value


class PackedLevel(Level):
    """The tokens of scenes of different sizes one after the other, (N, C), each with a center of its own.

    Args:
        centers: (N, 3), in the order of the tokens.
        offsets: int64 (scenes + 1,), where the scenes begin, and N.
    """

    def __init__(self, centers: Tensor, offsets: Tensor) -> None:
        super().__init__(centers, torch.arange(len(centers), device=centers.device))
        self.offsets = offsets

    @property
    def described(self) -> str:
        return f"{len(self.centers)} in {len(self.offsets) - 1} scenes"

    def describes(self, x: Tensor) -> bool:
        return x.ndim == 2 and len(x) == len(self.centers)

    @property
    def sizes(self) -> list[int]:
        """How many tokens every scene has."""
        return self.memo("sizes", lambda: [int(size) for size in self.offsets.diff().tolist()])


@dataclass
class Geometry:
    """What geometry-aware layers need of the current forward pass, one level a stage. Never in a state dict."""

    levels: list[Level]


_current_geometry: ContextVar[Geometry | None] = ContextVar("geometry", default=None)


@contextmanager
def published(geometry: Geometry) -> Iterator[None]:
    """Make ``geometry`` the one that layers see; withdrawn, with all it remembers, on leaving."""
    token = _current_geometry.set(geometry)
    try:
        yield
    finally:
        _current_geometry.reset(token)


def current_level(level: int, reader: str) -> Level:
    """The published level of a stage; ``reader`` is the name of the layer that asks.

    Raises:
        GeometryError: no forward pass of a backbone is under way, or it has no such level.
    """
    geometry = _current_geometry.get()
    if geometry is None or level >= len(geometry.levels):
        raise GeometryError(
            f"{reader} needs the centers of its tokens, and no geometry of level {level} is published",
            "Call the backbone, not a layer of it: the backbone publishes the geometry of each forward pass.",
        )
    return geometry.levels[level]


@dataclass
class Tokens:
    """What a trunk returns; of a hierarchical one, the tokens of its last stage.

    Attributes:
        features: (B, T, C), after the final norm; (N, C) where scenes are packed.
        centers: (B, G, 3); (N, 3) where scenes are packed.
        slots: as those of :class:`Level`.
        layers: raw outputs (B, T, C) of the blocks that were asked for, by index.
        places: where the tokens with a center stand, if known beforehand; a recorded graph cannot look for them.
        offsets: of packed scenes, as those of :class:`PackedLevel`.
    """

    features: Tensor
    centers: Tensor
    slots: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)
    places: slice | None = None
    offsets: Tensor | None = None

    def spatial(self, features: Tensor) -> Tensor:
        """The rows of (B, T, C) that have a center, (B, n, C), one for each of its places; all of packed (N, C).

        Raises:
            ShapeError: clouds differ in the number of such rows.
        """
        if self.offsets is not None:
            return features
        if self.places is not None:
            return features[:, self.places]
        return torch.take_along_dim(features, self._places().unsqueeze(-1), dim=1)

    def spatial_centers(self) -> Tensor:
        """(B, n, 3), the centers of the rows of :meth:`spatial`; (N, 3) where scenes are packed."""
        if self.offsets is not None:
            return self.centers
        slots = self.slots.expand(len(self.centers), -1)
        return torch.take_along_dim(self.centers, self.spatial(slots.unsqueeze(-1)), dim=1)

    def _places(self) -> Tensor:
        """int64 (1 or B, n)."""
        has_center = self.slots.reshape(-1, self.slots.shape[-1]) >= 0
        counts = has_center.sum(dim=1)
        if bool((counts != counts[0]).any()):
            raise ShapeError(f"clouds of one batch have from {counts.min()} to {counts.max()} tokens with a center")
        return has_center.nonzero()[:, 1].view(len(has_center), -1)


class Backbone(nn.Module, ABC):
    """A pre-trained network under its official parameter names, and the root module of everything built on it.

    Attributes:
        name: the word for it in recipes.
        depth: number of blocks, of all stages.
        width: channels C of a token, in the last stage.
        feature_width: channels of the pooled feature that the head reads.
        head_layout: layout of the official classification head, a key of ``tasks.heads.HEADS``.
        layout: how its official checkpoints name the tensors.
        token_names: parameters that a pre-training checkpoint may lack and every recipe may train
            (class token and its position, or the final norm).
        stand_ins: for roles that no layer of it has, the role that is taken where they are asked for.
    """

    name: ClassVar[str]
    layout: ClassVar[CheckpointLayout]
    head_layout: ClassVar[str]
    token_names: ClassVar[tuple[str, ...]] = ()
    stand_ins: ClassVar[Mapping[str, str]] = {}
    depth: int
    width: int
    feature_width: int

    def __init__(self) -> None:
        super().__init__()
        self.task: Task | None = None

    @property
    def fusion_blocks(self) -> range:
        """The blocks whose outputs may be fused before the head: those of the last stage, whose tokens are pooled."""
        return range(self.depth)

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

    def forward(self, points: Tensor) -> Tensor:
        """The task's prediction for a batch of clouds (B, N, 3)."""
        if self.task is None:
            raise RuntimeError("attach a task before calling the backbone")
        return self.task.predict(self, points)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, but BatchNorm whose weight is frozen keeps using and never moves its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not _trains(module.weight):
                module.eval()
        return self


def _trains(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


class Task(ABC):
    """A head, its loss and its metrics.

    Attributes:
        name: the word for it in recipes.
        head_names: the top-level modules that :meth:`attach` adds to the backbone.
    """

    name: ClassVar[str]
    head_names: tuple[str, ...]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain values that rebuild this task: the arguments of its constructor."""

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Add the head to the backbone under its official name."""

    @abstractmethod
    def predict(self, backbone: Backbone, points: Tensor) -> Tensor:
        """Logits for clouds (B, N, 3)."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar."""

    @abstractmethod
    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Named figures over a whole split, in percent; ``accuracy`` is always among them."""


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
    sites = [site for site in backbone.sites() if site.role != "attention"]
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


def official_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by official name."""
    return {official_name(name): parameter for name, parameter in model.named_parameters()}


def official_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by official name; the tensors are the model's own, not copies."""
    return {official_name(name): tensor.detach() for name, tensor in model.state_dict().items()}


def load_official_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors by official name into a model; every name must exist there with the same shape.

    Raises:
        KeyError: a name that the model does not have.
    """
    own = official_state(model)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
