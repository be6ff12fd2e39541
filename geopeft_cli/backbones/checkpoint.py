"""From the tensors of a file to a backbone: sizes, key map, strict loading both ways, and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.backbones.files import locate, read_metadata, read_tensors
from geopeft_cli.backbones.layouts import Identity, identify, of_branch, strip_wrappers
from geopeft_cli.contracts import Backbone, CheckpointLayout, load_official_state, official_state
from geopeft_cli.errors import CheckpointError, UsageError

SETTINGS_KEY = "geopeft_backbone"  # in the header of our own safetensors files


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and understood, under the backbone's own names.

    Attributes:
        location: what the recipe says.
        path: the local file.
        identity: what the file holds.
        backbone: tensors of the backbone.
        head: tensors of a head; empty for pre-training files.
        unused: names in the file that are neither.
        settings: the backbone's settings, where the file records them.
        layout: how official files name this backbone's tensors.
        pretrained: what the file holds for ``layout.pretrained``, by the backbone's names.
    """

    location: str
    path: Path
    identity: Identity
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    unused: tuple[str, ...]
    settings: dict[str, Any]
    layout: CheckpointLayout
    pretrained: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Digest of the backbone's tensors, whatever file they came in."""
        return fingerprint(self.backbone)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        values = tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(values.contiguous().numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


def read_checkpoint(
    location: str, name: str, layout: CheckpointLayout, sha256: str | None = None, dense: bool = False
) -> Checkpoint:
    """Find, read and map a checkpoint for the backbone ``name``, or with ``dense`` for its segmentation model.

    Raises:
        UsageError: the location leads nowhere.
        CheckpointError: the file is damaged, unsafe, or holds another network.
    """
    path = locate(location, sha256)
    found = {strip_wrappers(key): tensor for key, tensor in read_tensors(path).items()}
    tensors = of_branch(found, layout.branch)
    identity = identify(tensors, name)
    if identity.backbone != name:
        raise CheckpointError(
            f"{path}: no key matches {name}; it looks like {identity.title}",
            f"First keys: {', '.join(sorted(found)[:3])}. Use a checkpoint of {name}, or another backbone.name.",
        )
    has_prefix = any(key.startswith(layout.prefix) for key in tensors)
    if has_prefix if layout.prefix else identity.stage in ("pretrained", "unknown"):
        kept = layout.dense if dense else ()
        used = {key: t for key, t in tensors.items() if key.startswith(kept) or not key.startswith(layout.ignored)}
        own = {layout.own_name(key): t for key, t in used.items() if key.startswith(layout.prefix)}
        rest = [key for key in used if not key.startswith(layout.prefix)]
        head: dict[str, Tensor] = {}
    else:
        named = {layout.own_name(key): tensor for key, tensor in tensors.items()}
        own = {key: tensor for key, tensor in named.items() if not key.startswith(layout.head)}
        head = {key: tensor for key, tensor in named.items() if key.startswith(layout.head)}
        rest = []
    if dense:
        own = {key: tensor for key, tensor in own.items() if not key.startswith(layout.not_dense)}
    pretrained = {
        key.replace(official, name, 1): tensor
        for name, official in layout.pretrained
        for key, tensor in tensors.items()
        if key.startswith(official)
    }
    return Checkpoint(location, path, identity, own, head, tuple(rest), _recorded_settings(path), layout, pretrained)


def _recorded_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_metadata(path).get(SETTINGS_KEY, "{}")))
    except (ValueError, TypeError):
        raise CheckpointError(f"{path}: its record {SETTINGS_KEY} is damaged", "Copy or download it again.") from None


def infer_sizes(checkpoint: Checkpoint, asked: Mapping[str, int | None]) -> dict[str, Any]:
    """Width, depth, heads and what its layout names from a checkpoint, checked against those that the recipe gives.

    Of a network with stages: the width of its last stage and the depth of all are checked, and ``widths`` and
    ``depths`` returned in their place. The number of heads is not in the shapes: it is the file's own record, the
    recipe's, or one for 64 channels.

    Raises:
        CheckpointError: the recipe asks for another size than the file has.
        UsageError: the number of heads cannot be told or does not divide the width.
    """
    width, depth = checkpoint.identity.width, checkpoint.identity.depth
    stages = checkpoint.identity.stages
    if width is None or depth is None or not all(blocks for _, blocks in stages):
        raise CheckpointError(f"{checkpoint.path} holds no transformer blocks", "It is not a whole checkpoint.")
    recorded = checkpoint.settings.get("heads")
    for name, found in (("width", width), ("depth", depth), ("heads", recorded)):
        if found is not None and asked.get(name) not in (None, found):
            raise CheckpointError(
                f"{checkpoint.path} has {name} {found}, the recipe asks for {asked[name]}",
                f"Leave backbone.{name} out to take the file's, or use another checkpoint.",
            )
    sizes: dict[str, Any] = {"width": width, "depth": depth}
    if stages:
        widths, depths = zip(*stages, strict=True)
        sizes = {"widths": widths, "depths": depths}
    for size, (name, axis) in checkpoint.layout.sizes.items():
        if name in checkpoint.backbone and checkpoint.backbone[name].ndim > axis:
            sizes[size] = int(checkpoint.backbone[name].shape[axis])
    if not checkpoint.layout.heads:
        return sizes
    heads = recorded or asked.get("heads") or (width // 64 if width % 64 == 0 else None)
    if not heads:
        raise UsageError(f"backbone.heads: width {width} does not tell the number of heads", "Give backbone.heads.")
    for one in [size for size, _ in stages] or [width]:
        if one % heads:
            raise UsageError(f"backbone.heads: {heads} does not divide the width {one}")
    return {**sizes, "heads": int(heads)}


def load_backbone(backbone: Backbone, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Copy a checkpoint into a backbone that has no head yet, strictly both ways.

    Returns:
        Names of the parameters that the file does not hold and may lack; they keep their initial values.

    Raises:
        CheckpointError: a tensor is missing, left over, mis-shaped, or not finite.
    """
    own = official_state(backbone)
    layout = checkpoint.layout
    found = {name: t for name, t in checkpoint.backbone.items() if name in own or not name.startswith(layout.optional)}
    may_lack = () if checkpoint.head and layout.head_means_whole else layout.fresh
    fresh = tuple(name for name in own if name.startswith(may_lack) and name not in checkpoint.backbone)
    problems = [
        *_listed("missing", (name for name in own if name not in checkpoint.backbone and name not in fresh)),
        *_listed("unexpected", (*(name for name in found if name not in own), *checkpoint.unused)),
        *_listed(
            "of another shape",
            (
                f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
                for name, tensor in found.items()
                if name in own and tensor.shape != own[name].shape
            ),
        ),
        *_listed("not finite", (name for name, tensor in found.items() if not tensor.isfinite().all())),
    ]
    if problems:
        kind = f"{checkpoint.identity.title}, {checkpoint.identity.stage.replace('_', ' ')}"
        hint = _kernel_hint(found, own)
        if checkpoint.identity.stage.endswith("segmentation") and not backbone.dense:
            hint = f"It is of a segmentation model: use it with task.name {checkpoint.identity.stage}."
        raise CheckpointError(f"{checkpoint.path} ({kind}) does not fit {backbone.name}: " + "; ".join(problems), hint)
    load_official_state(backbone, found)
    backbone.pretrained = {
        name: tensor
        for name, tensor in checkpoint.pretrained.items()
        if name in own and tensor.shape == own[name].shape and tensor.isfinite().all()
    }
    return fresh


def _kernel_hint(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Why convolutions of a scene network have other shapes, where they have those of an older library."""
    for name, tensor in found.items():
        if name in own and tensor.ndim == 5 and tuple(tensor.shape) == (*own[name].shape[1:], own[name].shape[0]):
            return f"{name} has the layout of spconv before 2.2, (k, k, k, in, out); save it with a later one."
    return None


def load_head(backbone: Backbone, checkpoint: Checkpoint) -> None:
    """Copy the head of a fine-tuned checkpoint.

    Raises:
        CheckpointError: the file has no head, or one that is not finite, of another layout, or for other classes.
    """
    own = {key: tensor for key, tensor in official_state(backbone).items() if key.startswith(checkpoint.layout.head)}
    found = checkpoint.head
    if not found:
        raise CheckpointError(f"{checkpoint.path} has no head", "Use task.head_from: fresh.")
    if {key: tensor.shape for key, tensor in found.items()} != {key: tensor.shape for key, tensor in own.items()}:
        raise CheckpointError(
            f"{checkpoint.path} has a head for {checkpoint.identity.classes} classes that does not fit the task's",
            "Use task.head_from: fresh, or data with the same classes.",
        )
    damaged = _listed("not finite", (key for key, tensor in found.items() if not tensor.isfinite().all()))
    if damaged:
        raise CheckpointError(f"{checkpoint.path} has a damaged head: {damaged[0]}", "Copy or download it again.")
    load_official_state(backbone, found)


def _listed(what: str, names: Iterable[str], most: int = 4) -> list[str]:
    found = list(names)
    if not found:
        return []
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return [f"{what}: {', '.join(found[:most])}{more}"]
