"""One base in memory, and the models that several adapters make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from geopeft_cli.adapters.directory import StoredAdapter, load_adapter, read_adapter
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.peft_layout import find_adapter
from geopeft_cli.assemble import rebuild
from geopeft_cli.backbones.checkpoint import Checkpoint
from geopeft_cli.contracts import Backbone, Vocabulary, official_parameters
from geopeft_cli.errors import AdapterError, UsageError
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.verbs.opening import Opened, recorded_recipe


class SharedBase:
    """The tensors of a checkpoint, of which there is one copy however many models are made of it.

    A model owns what its adapter holds. All else is the base's, and nobody may write to it.

    Args:
        opened: the first model, on the device of all of them; its frozen tensors become the base's.
        checkpoint: what it was built from.
    """

    def __init__(self, opened: Opened, checkpoint: Checkpoint) -> None:
        own = official_parameters(opened.model)
        tensors = {}
        for name, tensor in checkpoint.backbone.items():
            held = own.get(name)
            wide = tensor if held is None else tensor.to(held)  # files may be in half precision
            kept = held is not None and not held.requires_grad and torch.equal(held, wide)
            tensors[name] = held.data if held is not None and kept else wide.clone()
        pretrained = {name: tensor.clone() for name, tensor in checkpoint.pretrained.items()}
        head = {name: tensor.clone() for name, tensor in checkpoint.head.items()}
        self._checkpoint = replace(checkpoint, backbone=tensors, head=head, pretrained=pretrained)
        self._sha256 = opened.manifest.base_sha256
        self._network = opened.recipe.backbone.name

    def open(self, path: Path, overrides: Sequence[str] = ()) -> Opened:
        """The model that another adapter makes of the base.

        Raises:
            UsageError: nothing usable is there.
            AdapterError: damaged, without a record of geopeft, or made for another base.
        """
        adapter, manifest, recipe = self._read(path, overrides)
        with torch.random.fork_rng(devices=()):
            experiment = rebuild(recipe, adapter, self._checkpoint)
        return Opened(experiment.model, recipe, manifest, adapter.folder, experiment)

    def load_into(self, models: Sequence[Opened], path: Path, overrides: Sequence[str] = ()) -> Opened | None:
        """Put another adapter into the first of ``models`` that has its form; None where none has.

        None, too, for an adapter that remembers training clouds, which is checked as a new model is.

        Raises:
            UsageError, AdapterError: see :meth:`open`; the models are then as they were.
        """
        adapter, manifest, recipe = self._read(path, overrides)
        found = Opened(models[0].model, recipe, manifest, adapter.folder)
        for opened in models if manifest.memory is None else ():
            if form_of(opened) == form_of(found):
                load_adapter(opened.model, adapter.tensors, manifest.fresh, str(adapter.folder))
                return replace(found, model=opened.model)
        return None

    def share(self, model: Backbone) -> None:
        """Let a model, on the device of the base, use its tensors in place of equal frozen ones."""
        for name, parameter in official_parameters(model).items():
            tensor = self._checkpoint.backbone.get(name)
            if tensor is not None and not parameter.requires_grad and torch.equal(parameter, tensor):
                parameter.data = tensor

    def _read(self, path: Path, overrides: Sequence[str]) -> tuple[StoredAdapter, Manifest, Recipe]:
        if path.is_file():
            raise UsageError(f"{path} is a file, not a run or an adapter", "Load a merged file by itself.")
        adapter = read_adapter(find_adapter(path))
        manifest = adapter.manifest
        if manifest is None:
            raise AdapterError(f"{adapter.folder} has no record of geopeft", "Load it by itself.")
        recipe = recorded_recipe(manifest, adapter.folder, overrides)
        if (manifest.base_sha256, recipe.backbone.name) != (self._sha256, self._network):
            raise AdapterError(
                f"{adapter.folder} was made for a base of {recipe.backbone.name} with SHA-256 "
                f"{manifest.base_sha256[:12]}…, in memory is one of {self._network} with {self._sha256[:12]}…",
                "Load it by itself.",
            )
        return adapter, manifest, recipe


def form_of(opened: Opened) -> tuple[object, ...]:
    """All that decides which model an adapter needs, apart from the values of its tensors."""
    recipe, manifest = opened.recipe, opened.manifest
    start = (manifest.selection.get("epoch"), recipe.training.schedule, recipe.training.epochs)
    return (
        recipe.backbone.model_dump(exclude={"checkpoint", "sha256"}),
        recipe.method.model_dump(),
        recipe.task.model_dump(),
        Vocabulary.of(manifest),
        manifest.backbone,
        manifest.fresh,
        start if "epoch" in manifest.selection else None,
    )
