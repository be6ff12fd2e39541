"""The ``README.md`` of an adapter directory: what it is, how it was made, what was measured, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from geopeft_cli import __version__
from geopeft_cli.reports.console import split_title
from geopeft_cli.reports.protocol import augmented_in_words, prepared_in_words


def model_card(
    *,
    recipe: Mapping[str, Any],
    classes: Sequence[str],
    base_sha256: str,
    trainable_parameters: int,
    total_parameters: int,
    metrics: Mapping[str, Mapping[str, float]],
    selection: str,
    part_names: Sequence[str] = (),
    parts: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Markdown with the YAML front matter of the Hugging Face hub.

    Args:
        recipe: the resolved recipe, as plain values.
        classes: class names.
        base_sha256: digest of the base's tensors.
        trainable_parameters, total_parameters: counts, head included.
        metrics: figures in percent, by split.
        selection: which epoch was kept and how, in words.
        part_names: names of the labels of points, for segmentation.
        parts: for every class, the labels that its points may have.
    """
    method = recipe["method"]["name"]
    data, training = recipe["data"], recipe["training"]
    settings = {key: value for key, value in recipe["method"].items() if key != "name"}
    augment = augmented_in_words(data)
    figures = [
        f"| {split_title(split, training['select'])} | {name.replace('_', ' ')} | {value:.2f} % |"
        for split, values in metrics.items()
        for name, value in values.items()
    ]
    lines = [
        "---",
        f"library_name: {'peft' if method == 'lora' else 'geopeft'}",
        f"base_model: {json.dumps(recipe['backbone']['checkpoint'])}",
        "tags: [point-cloud, 3d, geopeft, " + method + "]",
        "---",
        "",
        f"# {recipe['name']}",
        "",
        recipe.get("description") or f"{method} on {recipe['backbone']['name']}, trained with geopeft {__version__}.",
        "",
        "| | |",
        "|---|---|",
        f"| method | {method}: {_listed(settings)} |",
        f"| backbone | {recipe['backbone']['name']}, base `{recipe['backbone']['checkpoint']}` |",
        f"| base SHA-256 | `{base_sha256}` |",
        f"| trainable parameters | {trainable_parameters:,} of {total_parameters:,} "
        f"({100 * trainable_parameters / total_parameters:.2f} %), head included |",
        f"| classes | {', '.join(classes)} |",
        *([f"| labels of points | {', '.join(part_names)} |"] if part_names else []),
        f"| input | {prepared_in_words(data)} |",
        f"| training | {training['epochs']} epochs, batch {training['batch_size']}, lr {training['lr']}, "
        f"augmentation {augment}, seed {recipe['seed']} |",
        f"| weights kept | {selection} |",
        "",
        "| split | figure | |",
        "|---|---|---|",
        *(figures or ["| - | not measured | - |"]),
        "",
        "```",
        "geopeft eval THIS_FOLDER",
        "geopeft merge THIS_FOLDER --output merged.safetensors",
        "geopeft export THIS_FOLDER --format onnx --output model.onnx",
        "```",
        "",
    ]
    return "\n".join(lines)


def _listed(settings: Mapping[str, Any]) -> str:
    shown = {key: "+".join(value) if isinstance(value, list | tuple) else value for key, value in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items()) or "no settings"
