"""The adapter directory on disk: what belongs in it, saving, and loading that is strict both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
from geopeft_cli.adapters.peft_layout import CARD, CONFIG, PREFIX, TENSORS, check_config, read_config, write_config
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.contracts import (
    Backbone,
    Wrapper,
    load_official_state,
    memories,
    official_name,
    official_state,
)
from geopeft_cli.errors import AdapterError
from geopeft_cli.storage import new_folder


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as read: tensors by official name, its configuration, and its record if geopeft wrote it."""

    folder: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    manifest: Manifest | None


def adapter_names(model: Backbone, fresh: Sequence[str]) -> list[str]:
    """Official names of the tensors that an adapter holds, sorted.

    What trains; all of the head; parameters that the base checkpoint lacks; statistics of BatchNorm that trains; and
    what is remembered of training clouds. Nothing else moves.
    """
    names = {official_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    names |= set(fresh)
    heads = model.task.head_names if model.task else ()
    state = official_state(model)
    names |= {name for name in state if name.partition(".")[0] in heads}
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight.requires_grad:
            names |= {official_name(f"{path}.{buffer}") for buffer, _ in module.named_buffers(recurse=False)}
    return sorted(names | {f"{path}.columns" for path in memories(model)})


def adapter_state(model: Backbone, fresh: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of :func:`adapter_names`, as copies on the CPU."""
    state = official_state(model)
    return {name: state[name].detach().cpu().clone().contiguous() for name in adapter_names(model, fresh)}


def save_adapter(
    folder: Path, model: Backbone, tensors: Mapping[str, Tensor], manifest: Manifest, method: str,
    settings: Mapping[str, Any], card: str,
) -> None:  # fmt: skip
    """Write the directory, replacing a former one at once; the arguments are those of :func:`write_adapter`."""
    with new_folder(folder) as partial:
        write_adapter(partial, model, tensors, manifest, method, settings, card)


def write_adapter(
    folder: Path, model: Backbone, tensors: Mapping[str, Tensor], manifest: Manifest, method: str,
    settings: Mapping[str, Any], card: str,
) -> None:  # fmt: skip
    """Write the files of an adapter.

    Args:
        folder: the directory, which exists.
        model: for the names of the adapted layers and of the head.
        tensors: what :func:`adapter_state` returned.
        manifest: the record.
        method: recipe name of the method.
        settings: of the method.
        card: text of ``README.md``.
    """
    targets = [official_name(name) for name, module in model.named_modules() if isinstance(module, Wrapper)]
    heads = model.task.head_names if model.task else ()
    stored = {PREFIX + name: tensor for name, tensor in tensors.items()}
    saved_modules = [head for head in heads if any(name.startswith(f"{head}.") for name in tensors)]
    write_tensors(folder / TENSORS, stored, {"format": "pt", HEADER_KEY: manifest.to_text()})
    base = str(manifest.recipe["backbone"]["checkpoint"])
    write_config(folder / CONFIG, method, settings, targets, saved_modules, base)
    (folder / CARD).write_text(card, encoding="utf-8")


def read_adapter(folder: Path) -> StoredAdapter:
    """Read a directory written by geopeft or by Hugging Face peft.

    Raises:
        AdapterError: incomplete, damaged, or with a value that is not finite.
    """
    config = read_config(folder / CONFIG)
    path = folder / TENSORS
    header = read_header(path)
    manifest = Manifest.from_text(header.metadata[HEADER_KEY], str(path)) if HEADER_KEY in header.metadata else None
    if manifest is not None:
        check_config(config, manifest.recipe["method"], folder / CONFIG)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in header.shapes}
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged: {error}", "Copy or make the adapter again.") from None
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            raise AdapterError(f"{path}: {name} does not begin with {PREFIX}", "It is not an adapter of peft's layout.")
        if not tensor.isfinite().all():
            raise AdapterError(
                f"{path}: {name} holds values that are not finite", "The adapter is damaged or diverged."
            )
    return StoredAdapter(folder, {name.removeprefix(PREFIX): t for name, t in tensors.items()}, config, manifest)


def load_adapter(model: Backbone, tensors: Mapping[str, Tensor], fresh: Sequence[str], source: str) -> None:
    """Copy adapter tensors into a model built for them.

    Raises:
        AdapterError: a tensor is missing, left over, or of another shape.
    """
    remembered = {f"{path}.columns": memory for path, memory in memories(model).items()}
    expected = adapter_names(model, fresh)
    state = official_state(model)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in set(expected)]

    def fits(name: str) -> bool:
        if name in remembered:  # of any number of clouds
            return remembered[name].takes(tensors[name])
        return tensors[name].shape == state[name].shape

    misshaped = [name for name in expected if name in tensors and not fits(name)]
    for what, names in (("lacks", missing), ("has unexpected", unexpected), ("has another shape for", misshaped)):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise AdapterError(
                f"{source} {what} {', '.join(names[:4])}{more}", "It was made for another model, or it is damaged."
            )
    for name, memory in remembered.items():
        memory.columns = torch.empty_like(tensors[name], device=memory.columns.device)
    load_official_state(model, tensors)
