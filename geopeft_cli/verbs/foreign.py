"""LoRA adapters that Hugging Face peft wrote: what their directory does not say comes from the user's arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from geopeft_cli.adapters.directory import StoredAdapter, load_adapter
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.peft_layout import CONFIG, adapted_modules, lora_config
from geopeft_cli.assemble import Experiment, build, load_splits, vocabulary
from geopeft_cli.errors import AdapterError
from geopeft_cli.recipe.load import parse_recipe


def adopt(adapter: StoredAdapter, overrides: Sequence[str]) -> tuple[Experiment, Manifest]:
    """Build the model of an adapter without a record of geopeft.

    Rank, scale and layers are in the directory. Backbone, checkpoint and data, whose classes must be in the order
    of the adapter's head, are what ``overrides`` say.

    Raises:
        RecipeError: the arguments do not say what is needed.
        AdapterError: not plain LoRA, or the tensors do not fit the model.
    """
    config = lora_config(adapter.config, adapter.folder / CONFIG)
    if config.rank_of or config.alpha_of:
        raise AdapterError(f"{adapter.folder / CONFIG}: ranks that differ by layer cannot be read")
    method = {
        "name": "lora",
        "rank": config.rank,
        "alpha": config.alpha,
        "rslora": config.rslora,
        "dropout": config.dropout,
        "targets": adapted_modules(list(adapter.tensors)),
        "tokens": "train" if "cls_token" in adapter.tensors else "freeze",
    }
    name = re.sub(r"[^A-Za-z0-9._-]+|^[._-]+", "", adapter.folder.resolve().name) or "adapter"
    text = json.dumps({"name": name, "description": "adapter written by Hugging Face peft", "method": method})
    recipe = parse_recipe(text, str(adapter.folder), overrides)
    experiment = build(recipe, vocabulary(load_splits(recipe).test))
    load_adapter(experiment.model, adapter.tensors, experiment.fresh, str(adapter.folder))
    experiment.model.eval()
    return experiment, experiment.record(selection={"text": "as the adapter's author chose"})
