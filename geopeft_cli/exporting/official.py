"""A fine-tuned model as a checkpoint for the code of the backbone's authors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.adapters.merge import exact_modes
from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.backbones.checkpoint import SETTINGS_KEY, load_backbone, load_head, read_checkpoint
from geopeft_cli.contracts import Backbone, Foldable, Wrapper, official_name, official_state
from geopeft_cli.errors import ExportError
from geopeft_cli.exporting.verification import Verification, prepared, record, require_suffix, standalone
from geopeft_cli.storage import new_file
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.tasks.segmentation import Segmentation


def export_official(model: Backbone, path: Path, clouds: Tensor, manifest: Manifest) -> Verification:
    """Write a fine-tuned model in the layout of its authors' fine-tuning runs, read it back, and compare bitwise.

    A ``.pth`` file of a classifier has the keys ``base_model``, ``epoch``, ``metrics`` and ``best_metrics``, one of a
    segmentation model ``model_state_dict`` and ``epoch``; a ``.safetensors`` file is flat, with the backbone's
    settings, class names and input preparation in its header.

    Args:
        model: with its task, without wrappers: plain or merged.
        path: the file, replaced if it exists; its suffix chooses the form.
        clouds: real clouds (B, N, 3), prepared as for the model, to verify with.
        manifest: for epoch, accuracy, class names and input preparation.

    Raises:
        UsageError: another suffix.
        ExportError: the layout cannot express the model, or the file does not reproduce it; no file is left.
        ShapeError: ``clouds`` is not (B, N, 3) or too small for the backbone.
    """
    require_suffix(path, ".pth", ".safetensors")
    tensors = official_tensors(model)
    alone = standalone(model)
    clouds = prepared(clouds, model)
    with new_file(path) as partial:
        if path.suffix == ".pth":
            torch.save(_container(model, tensors, manifest), partial)
        else:
            header = {"format": "pt", SETTINGS_KEY: json.dumps(model.settings()), **record(manifest)}
            write_tensors(partial, tensors, header)
        difference = _difference(partial, alone, clouds)
        if difference != 0.0:
            raise ExportError(f"the written checkpoint differs from the model by {difference:.3g} in its logits")
        return Verification(((clouds.shape[0], clouds.shape[1]),), difference, partial.stat().st_size)


def official_tensors(model: Backbone) -> dict[str, Tensor]:
    """All tensors of a fine-tuned model by official name, as contiguous copies on the CPU.

    Raises:
        ExportError: the official class has no place for a part of the model; the hint names the way out.
    """
    wrappers = {official_name(name): part for name, part in model.named_modules() if isinstance(part, Wrapper)}
    if wrappers:
        name, wrapper = next(iter(wrappers.items()))
        raise ExportError(
            f"the official layout has no place for the {type(wrapper).__name__} at {name}", _way_out(wrappers)
        )
    task = model.task
    if isinstance(task, Classification):
        _require_official_head(task)
    elif not isinstance(task, Segmentation):
        raise ExportError("the official layout is one of classifiers and segmentation models", "Give a trained one.")
    state = official_state(model)
    return {model.layout.file_name(name): tensor.cpu().clone().contiguous() for name, tensor in state.items()}


def _require_official_head(task: Classification) -> None:
    if task.fusion["layers"]:
        raise ExportError(
            "the official classifier has no feature fusion",
            "Export to onnx or pt2, or train with task.fusion.layers=0.",
        )
    if task.head != "mlp":
        raise ExportError(
            f"the official classifier has the mlp head, this model a {task.head} one",
            "Export to onnx or pt2, or train with task.head=mlp.",
        )


def _way_out(wrappers: dict[str, Wrapper]) -> str:
    layers = [wrapper for wrapper in wrappers.values() if isinstance(wrapper, Foldable)]
    if len(layers) < len(wrappers):
        return "It cannot be merged into the weights either. Export to onnx or pt2."
    if "exact" in exact_modes(layers):
        return "Merge first, which is exact: geopeft merge RUN --output FILE.safetensors; then export FILE."
    approximate = dict.fromkeys(mode for layer in layers for mode in layer.approximate_modes)
    return (
        "Merging it into plain weights is exact only for lam = 0. Export to onnx or pt2, or merge the run with an "
        f"approximate mode: geopeft merge RUN --mode {'|'.join(approximate)} --output FILE.safetensors; "
        "then export FILE."
    )


def _container(model: Backbone, tensors: dict[str, Tensor], manifest: Manifest) -> dict[str, Any]:
    if model.dense:
        return {"model_state_dict": tensors, "epoch": int(manifest.selection.get("epoch", 0))}
    return {"base_model": tensors, **_progress(manifest)}


def _progress(manifest: Manifest) -> dict[str, Any]:
    """What the authors' loaders print and resume from, beside the weights."""
    figures: dict[str, float] = manifest.metrics.get("test") or next(iter(manifest.metrics.values()), {})
    metrics = {"acc": float(figures["accuracy"])} if "accuracy" in figures else {}
    return {"epoch": int(manifest.selection.get("epoch", 0)), "metrics": metrics, "best_metrics": dict(metrics)}


@torch.no_grad()
def _difference(path: Path, model: Backbone, clouds: Tensor) -> float:
    """The largest difference of the logits between the model and what the file gives."""
    assert model.task is not None
    checkpoint = read_checkpoint(str(path), model.name, model.layout, dense=model.dense)
    again = type(model)(**model.settings())
    load_backbone(again, checkpoint)
    type(model.task)(**model.task.settings()).attach(again)
    load_head(again, checkpoint)
    return float((standalone(again)(clouds) - model(clouds)).abs().max())
