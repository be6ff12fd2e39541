"""What a reversible merged file keeps beside the merged model: tensors of the base and of the adapter, bit for bit.

They are under ``geopeft.unmerge.base.`` and ``geopeft.unmerge.adapter.``. Tensors that the merged model holds with
the same bits are not kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from geopeft_cli.adapters.directory import adapter_state
from geopeft_cli.assemble import read_base
from geopeft_cli.backbones.files import ASIDE
from geopeft_cli.verbs.opening import Opened

REVERSIBLE, DIGEST = "reversible", "tensors_sha256"  # in the merge record; the digest is over all tensors of the file
BASE, ADAPTER = "base.", "adapter."


def kept_aside(opened: Opened, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of base and adapter that the merged model does not hold, under the names that they have in the file.

    Args:
        opened: the unmerged model.
        merged: tensors of the merged model by official name.
    """
    checkpoint = read_base(opened.recipe)
    head = checkpoint.head if opened.recipe.task.head_from == "checkpoint" else {}
    base = {name: as_loaded(tensor) for name, tensor in {**checkpoint.backbone, **head}.items()}
    adapter = adapter_state(opened.model, opened.manifest.fresh)
    return {
        f"{ASIDE}{part}{name}": tensor
        for part, tensors in ((BASE, base), (ADAPTER, adapter))
        for name, tensor in tensors.items()
        if name not in merged or not same_bits(tensor, merged[name])
    }


def taken_back(
    part: str, names: Iterable[str], merged: Mapping[str, Tensor], aside: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a part, ``BASE`` or ``ADAPTER``: those kept aside, and else the merged model's own, if any."""
    every = {**merged, **{name.removeprefix(part): t for name, t in aside.items() if name.startswith(part)}}
    return {name: every[name] for name in names if name in every}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in type, shape and every bit, which also tells 0 from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(tensor.cpu().contiguous().flatten().view(torch.uint8) for tensor in (a, b)))


def as_loaded(tensor: Tensor) -> Tensor:
    """A tensor of a checkpoint as the model holds it, which its digest does not tell apart."""
    return tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)
