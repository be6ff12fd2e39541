"""Checkpoints as released training scripts write them, made from a tiny network of random values."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.backbones.layouts import POINT_MAE
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.tasks.classification import Classification

WIDTH, DEPTH, HEADS = 32, 2, 2


def tiny(classes: int = 0, head: str = "mlp", width: int = WIDTH, depth: int = DEPTH, seed: int = 0) -> PointMAE:
    """A Point-MAE without, or with, a head."""
    torch.manual_seed(seed)
    backbone = PointMAE(width=width, depth=depth, heads=HEADS, groups=8, group_size=8)
    if classes:
        Classification([str(i) for i in range(classes)], head=head).attach(backbone)  # type: ignore[arg-type]
    return backbone


def pretrained(prefix: str = "", **sizes: int) -> dict[str, Tensor]:
    """The tensors of a pre-training run: encoder, decoder, mask token, no class token."""
    encoder = {
        f"MAE_encoder.{name}": tensor
        for name, tensor in tiny(**sizes).state_dict().items()
        if name not in POINT_MAE.fresh
    }
    rest = {
        "mask_token": torch.zeros(1, 1, WIDTH),
        "decoder_pos_embed.0.weight": torch.zeros(128, 3),
        "MAE_decoder.blocks.0.attn.qkv.weight": torch.zeros(3 * WIDTH, WIDTH),
        "MAE_decoder.blocks.0.norm1.weight": torch.ones(7),
        "increase_dim.0.weight": torch.zeros(96, WIDTH, 1),
    }
    return {f"{prefix}{name}": tensor for name, tensor in (encoder | rest).items()}


def finetuned(classes: int = 5, head: str = "mlp", prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a fine-tuned classifier."""
    return {f"{prefix}{name}": tensor for name, tensor in tiny(classes, head).state_dict().items()}


def rewritten(source: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a .pth archive whose pickle is ``change`` of the original one."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as write:
        for entry in read.infolist():
            content = read.read(entry)
            write.writestr(entry, change(content) if entry.filename.endswith("/data.pkl") else content)
    return target


def renamed_in_pickle(content: bytes, old: str, new: str) -> bytes:
    """Replace a string, as protocol 2 spells it: X, its length, its bytes."""
    spelled = [b"X" + struct.pack("<I", len(text)) + text.encode() for text in (old, new)]
    assert spelled[0] in content
    return content.replace(*spelled)


class Attack:
    """Runs a command when unpickled by a reader that allows it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


def raw_pickle(content: object, protocol: int) -> bytes:
    buffer = io.BytesIO()
    pickle.dump(content, buffer, protocol=protocol)
    return buffer.getvalue()
