"""How a scene network of a file is built: from the configuration beside its weights, and from the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geopeft_cli.backbones.checkpoint import Checkpoint, infer_sizes
from geopeft_cli.backbones.files import read_config
from geopeft_cli.errors import CheckpointError

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
        found = settings[name] if name == "in_channels" else list(settings[name])
        if word in config and found != (config[word] if name == "in_channels" else list(config[word])):
            raise CheckpointError(
                f"{checkpoint.path} says {word}: {config[word]}, and its tensors have {found}", "It is damaged."
            )
    words = _ENCODER | (_DECODER if "decoder_widths" in settings else {})
    return settings | {name: config[word] for name, word in words.items() if word in config}


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
