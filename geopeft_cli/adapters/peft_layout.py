"""The directory layout of Hugging Face peft: file names, tensor names and ``adapter_config.json``. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geopeft_cli.errors import AdapterError, UsageError

TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoRAConfig:
    """What ``adapter_config.json`` says of a LoRA adapter.

    ``rank_of`` and ``alpha_of`` hold peft's ``rank_pattern`` and ``alpha_pattern``, by module name.
    """

    rank: int
    alpha: float
    rslora: bool
    dropout: float
    target_modules: tuple[str, ...] | str
    modules_to_save: tuple[str, ...]
    rank_of: dict[str, int] = field(default_factory=dict)
    alpha_of: dict[str, float] = field(default_factory=dict)


# Keys of peft that change what the adapter computes and that a plain LoRA does not have.
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "alora_invocation_tokens", "target_parameters")


def write_config(
    path: Path,
    method: str,
    settings: Mapping[str, Any],
    targets: Sequence[str],
    modules_to_save: Sequence[str],
    base: str,
) -> None:
    """Write ``adapter_config.json``: peft's own for LoRA, one that peft refuses loudly for every other method.

    Args:
        path: the file.
        method: recipe name of the method.
        settings: of the method.
        targets: full names of the adapted layers.
        modules_to_save: top-level modules stored whole.
        base: location of the base checkpoint.
    """
    config: dict[str, Any] = {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": sorted(modules_to_save),
        "revision": None,
        "task_type": None,
        **_defining(method, settings),
    }
    if method == "lora":
        config |= {
            "bias": "none",
            "fan_in_fan_out": False,
            "lora_dropout": settings["dropout"],
            "target_modules": sorted(targets),
        }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _defining(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the configuration that, changed, would make another model of the same tensors."""
    if method != "lora":
        return {"peft_type": f"GEOPEFT_{method.upper()}"}
    return {
        "lora_alpha": settings["alpha"],
        "peft_type": "LORA",
        "r": settings["rank"],
        "use_rslora": settings["rslora"],
    }


def check_config(config: Mapping[str, Any], method: Mapping[str, Any], path: Path) -> None:
    """Hold a configuration against the record of the same adapter.

    Args:
        config: as read from ``path``.
        method: the ``method`` section of the recorded recipe.

    Raises:
        AdapterError: it was changed.
    """
    for key, value in _defining(method["name"], method).items():
        if config.get(key) != value:
            raise AdapterError(
                f"{path}: {key} is {config.get(key)!r}, the adapter was trained with {value!r}",
                "Undo the change, or copy or make the adapter again.",
            )


def find_adapter(path: Path) -> Path:
    """The adapter directory of a run or of an adapter given as such.

    Raises:
        UsageError: there is none.
    """
    for folder in (path, path / "adapter"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        raise UsageError(f"no run or adapter at {path}")
    recipe = path / "recipe.yaml"
    raise UsageError(
        f"{path} holds no adapter",
        f"The run is not finished: go on with geopeft finetune {recipe} --output {path} --resume."
        if recipe.is_file()
        else "Give a run folder or an adapter directory.",
    )


def read_config(path: Path) -> dict[str, Any]:
    """The values of an ``adapter_config.json``.

    Raises:
        AdapterError: missing, or not a JSON object with a ``peft_type``.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"no {path}", "An adapter directory holds it beside the tensors.") from None
    except (ValueError, OSError) as error:
        raise AdapterError(f"{path} cannot be read: {error}", "Copy or make the adapter again.") from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterError(f"{path} is not an adapter configuration: it has no peft_type")
    return config


def lora_config(config: Mapping[str, Any], path: Path) -> LoRAConfig:
    """The LoRA part of a configuration written by peft or by geopeft.

    Raises:
        AdapterError: not LoRA, a key is missing, or a variant is switched on that a plain LoRA does not have.
    """
    if config["peft_type"] != "LORA":
        raise AdapterError(f"{path} describes {config['peft_type']}, not LORA")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise AdapterError(f"{path}: {key} is not supported", "Only plain LoRA and rsLoRA adapters can be read.")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias {config['bias']!r} is not supported", "Only 'none' can be read.")
    try:
        targets = config["target_modules"]
        return LoRAConfig(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            rslora=bool(config.get("use_rslora", False)),
            dropout=float(config.get("lora_dropout", 0.0)),
            target_modules=targets if isinstance(targets, str) else tuple(targets),
            modules_to_save=tuple(config.get("modules_to_save") or ()),
            rank_of={str(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()},
            alpha_of={str(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{path}: {error} is missing or wrong", "Copy or make the adapter again.") from None


def adapted_modules(names: Sequence[str]) -> tuple[str, ...]:
    """Modules that have LoRA factors among tensor names without prefix, in order."""
    return tuple(dict.fromkeys(name.rpartition(".lora_")[0] for name in names if ".lora_A." in name))
