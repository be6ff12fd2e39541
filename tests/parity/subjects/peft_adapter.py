"""A LoRA adapter directory of the Hugging Face peft library: read, applied, merged, and written again by us."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geopeft_cli.adapters.directory import adapter_state, load_adapter, read_adapter, save_adapter
from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
from geopeft_cli.adapters.peft_layout import CONFIG, TENSORS, LoRAConfig, lora_config, read_config
from geopeft_cli.methods.lora import LowRankUpdate
from parity.golden_set import GoldenSet, tensor_file_content
from parity.subjects import Output
from parity.subjects.toy import Toy
from parity.tensors import as_tensors

FILE = "io.safetensors"
MANIFEST = Manifest({"backbone": {"checkpoint": "toy"}}, [], {}, "", [], 0, 0)


@torch.no_grad()
def run(golden: GoldenSet) -> Iterator[Output]:
    (route,) = golden.routes()
    x = torch.from_numpy(golden.input("x"))
    toy = Toy(as_tensors(route.weights), golden.config["depth"]).eval().requires_grad_(False)
    yield Output(FILE, "y_base", toy(x))

    adapter = read_adapter(golden.folder)
    config = lora_config(adapter.config, golden.folder / CONFIG)
    targets = [name for name, _ in toy.named_modules() if is_target(name, config.target_modules)]
    for name in targets:
        rank, alpha = (
            pattern_value(config.rank_of, name, config.rank),
            pattern_value(config.alpha_of, name, config.alpha),
        )
        scale = alpha / (math.sqrt(rank) if config.rslora else rank)
        replace(toy, name, LowRankUpdate(toy.get_submodule(name), rank, scale, config.dropout).eval())
    load_adapter(toy, adapter.tensors, (), str(golden.folder))
    yield Output(FILE, "y_lora", toy(x))

    yield from _written(golden, toy, config, targets)
    for name in targets:
        replace(toy, name, toy.get_submodule(name).folded("exact"))
    yield Output(FILE, "y_lora", toy(x))


def is_target(name: str, targets: tuple[str, ...] | str) -> bool:
    """Whether peft adapts a module: the whole name matches an expression, or ends in one of several names."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def pattern_value(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that the end of the name matches, as peft's rank and alpha patterns work."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` in the place of the one called ``name``."""
    owner, _, attribute = name.rpartition(".")
    parent = model.get_submodule(owner)
    parent._modules[attribute] = module


def _written(golden: GoldenSet, toy: Toy, config: LoRAConfig, targets: list[str]) -> Iterator[Output]:
    """Both files as our own writer makes them, in the words of the library's where the two mean the same."""
    settings = {"rank": config.rank, "alpha": config.alpha, "dropout": config.dropout, "rslora": config.rslora}
    for name, parameter in toy.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "adapter"
        save_adapter(target, toy, adapter_state(toy, ()), MANIFEST, "lora", settings, "")
        written, content = read_config(target / CONFIG), tensor_file_content(target / TENSORS)

    library = golden.json(CONFIG)
    # The same layers, named in full; where the base lies; and keys that we leave at the library's defaults.
    same_layers = sorted(written["target_modules"]) == sorted(targets)
    own = {key: value for key, value in written.items() if key != "base_model_name_or_path"}
    own["target_modules"] = library["target_modules"] if same_layers else written["target_modules"]
    yield Output(CONFIG, "", {key: own.get(key, value) for key, value in library.items()} | own)

    del content["metadata"][HEADER_KEY]  # our own record, which the library does not look at
    yield Output(TENSORS, "", content)
