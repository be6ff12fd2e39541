"""A LoRA adapter, and the base it belongs to, for Hugging Face peft."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.peft_layout import CARD, CONFIG, PREFIX, TENSORS, write_config
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.backbones.checkpoint import SETTINGS_KEY
from geopeft_cli.contracts import Backbone, Wrapper, official_name, official_state
from geopeft_cli.errors import ExportError
from geopeft_cli.exporting.verification import Verification, disagreement, prepared, record, resized, standalone
from geopeft_cli.methods.lora import LowRankUpdate
from geopeft_cli.storage import new_folder

BASE = "base_model.safetensors"
TOLERANCE = 1e-5


def export_peft(
    model: Backbone, folder: Path, clouds: Tensor, manifest: Manifest, settings: Mapping[str, Any]
) -> Verification:
    """Write a directory that ``peft.PeftModel.from_pretrained`` loads, and verify it with peft where that is installed.

    The adapter holds the LoRA factors and the head. peft ignores what else an adapter file holds without a word;
    therefore everything else, such as class tokens that were trained, is in ``base_model.safetensors``, the
    complete model without LoRA. ``README.md`` has the lines that load both.

    Args:
        model: with its task, adapted by LoRA.
        folder: the directory, replaced if it exists.
        clouds: real clouds (B, N, 3), prepared as for the model, to verify with.
        manifest: for the input preparation.
        settings: of the LoRA method: rank, alpha, dropout, rslora.

    Returns:
        What was verified; without peft, ``verified`` is false.

    Raises:
        ExportError: the method is not LoRA, or peft does not reproduce the model; no directory is left.
        ShapeError: ``clouds`` is not (B, N, 3) or too small for the backbone.
    """
    wrappers = _lora_layers(model)
    clouds = prepared(clouds, model)
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in official_state(model).items()}
    factors = {f"{layer}.{factor}.weight" for layer in wrappers for factor in ("lora_A", "lora_B")}
    base = {name: tensor for name, tensor in tensors.items() if name not in factors}
    assert model.task is not None
    tops = {name.partition(".")[0] for name in tensors}
    heads = [name for name in model.task.head_names if name in tops and name != "fusion"]
    adapter = {name: t for name, t in tensors.items() if name in factors or name.partition(".")[0] in heads}
    with new_folder(folder) as partial:
        write_tensors(partial / BASE, base, {"format": "pt", SETTINGS_KEY: json.dumps(model.settings())})
        write_tensors(partial / TENSORS, {PREFIX + name: t for name, t in adapter.items()}, {"format": "pt"})
        write_config(partial / CONFIG, "lora", settings, wrappers, heads, BASE)
        (partial / CARD).write_text(_card(model, manifest), encoding="utf-8")
        size = sum(file.stat().st_size for file in partial.iterdir())
        return _verify(partial, standalone(model), clouds, size)


def _lora_layers(model: Backbone) -> list[str]:
    """Official names of the adapted layers.

    Raises:
        ExportError: there are none, or another method's.
    """
    wrappers = {official_name(name): part for name, part in model.named_modules() if isinstance(part, Wrapper)}
    others = [part for part in wrappers.values() if not isinstance(part, LowRankUpdate)]
    if wrappers and not others:
        return list(wrappers)
    found = f"the layers of this model are adapted by {type(others[0]).__name__}" if others else "this model has none"
    raise ExportError(
        f"peft can load LoRA adapters, and {found}",
        "Merge the run (geopeft merge) for plain weights, make the nearest LoRA of it (geopeft merge --to-lora RANK) "
        "and export that, or export to onnx or pt2.",
    )


@torch.no_grad()
def _verify(folder: Path, model: Backbone, clouds: Tensor, size: int) -> Verification:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft = importlib.import_module("peft")
    except ImportError:
        return Verification((), 0.0, size)
    assert model.task is not None
    plain = type(model)(**model.settings())
    type(model.task)(**model.task.settings()).attach(plain)
    plain.load_state_dict(load_file(folder / BASE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(plain, folder, torch_device="cpu").eval()
    cases, largest = [], 0.0
    for batch in (1, len(clouds)):
        given = resized(clouds, batch, clouds.shape[1])
        case = f"{batch} clouds of {given.shape[1]} points"
        largest = max(largest, disagreement(loaded(given), model(given), case, TOLERANCE))
        cases.append((batch, given.shape[1]))
    return Verification(tuple(dict.fromkeys(cases)), largest, size)


def _card(model: Backbone, manifest: Manifest) -> str:
    task = model.task
    assert task is not None
    prepared = record(manifest)
    return f"""---
library_name: peft
base_model: {BASE}
tags: [point-cloud, 3d, geopeft, lora]
---

# LoRA on {model.name}, for Hugging Face peft

`{TENSORS}` holds the LoRA factors and the head, `{BASE}` everything else. The adapter
belongs to that base and to no other: peft does not notice a wrong one.
Written by geopeft {prepared["geopeft_version"]}.

```python
from peft import PeftModel
from safetensors.torch import load_file
from {type(model).__module__} import {type(model).__name__}
from {type(task).__module__} import {type(task).__name__}

model = {type(model).__name__}(**{model.settings()!r})
{type(task).__name__}(**{task.settings()!r}).attach(model)
model.load_state_dict(load_file("{BASE}"))
model = PeftModel.from_pretrained(model, ".").eval()
```

`model(points)` takes clouds (batch, n, 3), prepared with normalize {prepared["normalize"]} (trained on
{prepared["points"]} points each), and gives logits (batch, {len(manifest.classes)}).
"""
