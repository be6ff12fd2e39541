"""What a file says of a scene network beside its weights: how it is built, and its head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from geopeft_cli.backbones.checkpoint import Checkpoint, infer_sizes
from geopeft_cli.backbones.files import locate, read_config, read_tensors
from geopeft_cli.backbones.layouts import of_branch, strip_wrappers
from geopeft_cli.contracts import SceneBackbone, load_official_state, official_state
from geopeft_cli.errors import CheckpointError, UsageError

# Arguments of the constructors, and the official words for them.
_ENCODER = {
    "heads": "enc_num_head",
    "patch_size": "enc_patch_size",
    "stride": "stride",
    "curves": "order",
    "drop_path": "drop_path",
}
_DECODER = {"decoder_heads": "dec_num_head", "decoder_patch_size": "dec_patch_size"}
# What the networks here have built in.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "mlp_ratio": (4,),
    "qkv_bias": (True,),
    "qk_scale": (None,),
    "layer_scale": (None,),
    "pre_norm": (True,),
    "enable_rpe": (False,),
    "pdnorm_bn": (False,),
    "pdnorm_ln": (False,),
}


def scene_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The arguments that build the network of a checkpoint, whose own record goes first.

    Sizes, decoder and mask token are read off the tensors; heads (of 16 channels, otherwise), patches, strides,
    curves and drop path are in the configuration of ``sonata.pth`` or in the ``config.json`` of its folder, or have the
    released models' values.

    Raises:
        CheckpointError: the configuration contradicts the tensors, or asks for what the networks here do not have.
    """
    if checkpoint.settings:
        return dict(checkpoint.settings)
    settings = infer_sizes(checkpoint, {})
    if checkpoint.identity.backbone == "sonata":
        settings["mask_token"] = "embedding.mask_token" in checkpoint.backbone
    settings |= _decoder_sizes(checkpoint)
    config = read_config(checkpoint.path)
    if "enc_channels" not in config:
        return settings
    for name, allowed in _FIXED.items():
        if name in config and config[name] not in allowed:
            raise CheckpointError(f"{checkpoint.path} was made with {name}: {config[name]}, which is not supported")
    for name, word in (("widths", "enc_channels"), ("depths", "enc_depths"), ("in_channels", "in_channels")):
        if name not in settings or word not in config:  # a first layer that starts anew has no sizes
            continue
        found = settings[name] if name == "in_channels" else list(settings[name])
        if found != (config[word] if name == "in_channels" else list(config[word])):
            raise CheckpointError(
                f"{checkpoint.path} says {word}: {config[word]}, and its tensors have {found}", "It is damaged."
            )
    words = _ENCODER | (_DECODER if "decoder_widths" in settings else {})
    return settings | {name: config[word] for name, word in words.items() if word in config}


def restarted(checkpoint: Checkpoint, parts: Sequence[str]) -> Checkpoint:
    """The checkpoint without the tensors whose names begin so, which a network then starts anew."""
    kept = {name: tensor for name, tensor in checkpoint.backbone.items() if not name.startswith(tuple(parts))}
    layout = replace(checkpoint.layout, fresh=(*checkpoint.layout.fresh, *parts))
    return replace(checkpoint, backbone=kept, layout=layout)


def scene_arguments(
    checkpoint: Checkpoint, in_channels: int, *, new_decoder: bool = False, new_stem: bool = False, **options: Any
) -> dict[str, Any]:
    """The arguments that build the network of a checkpoint as a recipe wants it.

    Args:
        checkpoint: as read; see :func:`restarted` for parts that start anew.
        in_channels: input features of a voxel.
        new_decoder: whether there is a decoder that is no part of the pre-training: of 64 channels at the finest stage
            and those of the encoder at the others, with two blocks each, as in the released recipes.
        new_stem: whether the first layer may have other inputs than in the pre-training.
        options: further arguments; ``None`` for the file's or the network's own.

    Raises:
        UsageError: the pre-trained first layer reads another number of features.
        CheckpointError: see :func:`scene_settings`.
    """
    settings = {"decoder_widths": (), "decoder_depths": (), **scene_settings(checkpoint)}
    known = settings.get("in_channels", in_channels)
    if known != in_channels and not new_stem:
        raise UsageError(
            f"data.features: {in_channels} channels, and {checkpoint.path} was trained on {known}",
            "Use its features, or let the first layer start anew with backbone.stem=fresh.",
        )
    settings["in_channels"] = in_channels
    if new_decoder:
        widths = (64, *settings["widths"][1:-1])
        settings |= {"decoder_widths": widths, "decoder_depths": (2,) * len(widths), "decoder_is_new": True}
        settings |= {"decoder_heads": None, "decoder_patch_size": None}
    if options.get("patch_size") is not None:
        settings["decoder_patch_size"] = None
    return settings | {name: value for name, value in options.items() if value is not None}


def load_head_file(backbone: SceneBackbone, location: str, sha256: str | None = None) -> None:
    """Copy the segmentation head of any file that has one, such as ``sonata_linear_prob_head_sc.pth``, into a network.

    Args:
        backbone: with a head of the same classes attached.
        location: of the file, see :func:`geopeft_cli.backbones.files.locate`.
        sha256: its digest.

    Raises:
        UsageError: the location leads nowhere.
        CheckpointError: the file is damaged, has no head, or one that does not fit or is not finite.
    """
    path, prefix = locate(location, sha256), backbone.layout.head
    tensors = of_branch({strip_wrappers(name): tensor for name, tensor in read_tensors(path).items()})
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    own = {name: tuple(tensor.shape) for name, tensor in official_state(backbone).items() if name.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{path} has no head", f"Expected names that begin with {', '.join(prefix)}.")
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != own:
        raise CheckpointError(
            f"{path} has a head of {_shapes(found)}, the network one of {_shapes(official_state(backbone), prefix)}",
            "The classes must be the same, and the features too: those of all stages, or of a decoder.",
        )
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise CheckpointError(f"{path} has a damaged head: not finite", "Copy or download it again.")
    load_official_state(backbone, found)


def _shapes(tensors: Mapping[str, Tensor], prefix: str | tuple[str, ...] = "") -> str:
    found = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if name.startswith(prefix)]
    return ", ".join(found) or "no tensors"


def _decoder_sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Channels and blocks of the decoder, the finest stage first; nothing where there is none."""
    found: dict[int, list[int]] = {}
    for name, tensor in checkpoint.backbone.items():
        match = re.fullmatch(r"dec\.dec(\d+)\.block\d+\.norm1\.0\.weight", name)
        if match:
            found.setdefault(int(match[1]), []).append(tensor.numel())
    if not found:
        return {}
    stages = [found.get(stage, [0]) for stage in range(max(found) + 1)]
    return {"decoder_widths": [widths[0] for widths in stages], "decoder_depths": [len(widths) for widths in stages]}
