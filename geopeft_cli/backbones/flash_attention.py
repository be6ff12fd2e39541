"""Attention in patches by flash-attn (Dao, ICLR 2024, arXiv 2307.08691), which is optional."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.patches import Patches


def load_flash_attention() -> Any:
    """The module ``flash_attn``.

    Raises:
        UsageError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module("flash_attn")
    except ImportError as error:
        raise UsageError(
            f"backbone.attention: flash-attn does not load: {error}",
            "pip install flash-attn --no-build-isolation, or use backbone.attention=torch.",
        ) from error


def require_half_precision_on_cuda(x: Tensor) -> None:
    """Stop what flash-attn cannot read.

    Raises:
        UsageError: ``x`` is not on a CUDA device, or in another number format than float16 or bfloat16.
    """
    if not x.is_cuda:
        raise UsageError(
            f"backbone.attention: flash needs a CUDA device, and this is {x.device.type}",
            "Use backbone.attention=torch, whose weights are the same.",
        )
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise UsageError(
            f"backbone.attention: flash needs half precision, and this is {x.dtype}",
            "Use training.precision=bf16 or fp16, or backbone.attention=torch.",
        )


def flash_attention(fused: Tensor, cut: Patches, heads: int) -> Tensor:
    """Attention of every patch at once.

    Args:
        fused: (N, 3 C), queries, keys and values of the rows.
        cut: the patches.
        heads: attention heads.

    Returns:
        (S, C), the rows of all patches one after the other.

    Raises:
        UsageError: as :func:`require_half_precision_on_cuda` does.
    """
    require_half_precision_on_cuda(fused)
    rows = torch.cat([part.flatten() for part in cut.rows])
    lengths = torch.cat([part.new_full((len(part),), part.shape[1]) for part in cut.rows])
    bounds = F.pad(lengths.cumsum(0), (1, 0)).int()
    qkv = fused.index_select(0, rows).view(len(rows), 3, heads, -1)
    mixed: Tensor = load_flash_attention().flash_attn_varlen_qkvpacked_func(
        qkv, bounds, max(part.shape[1] for part in cut.rows)
    )
    return mixed.flatten(1)
