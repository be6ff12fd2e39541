"""Write a trained model in the format of another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geopeft_cli.adapters.merge import merge
from geopeft_cli.errors import ExportError
from geopeft_cli.storage import refuse_existing
from geopeft_cli.verbs.opening import check_clouds, open_trained

if TYPE_CHECKING:
    from geopeft_cli.exporting.verification import Verification


@dataclass(frozen=True)
class ExportResult:
    """What was written, how far it is from the model, and on which clouds that was found, in words."""

    path: Path
    verification: Verification
    clouds: str


def export_trained(path: Path, layout: str, output: Path, overrides: Sequence[str] = ()) -> ExportResult:
    """Export a run, an adapter or a merged file.

    Args:
        path: what to export.
        layout: ``onnx`` or ``pt2`` (whole programs), ``official`` (updates are merged, which must be possible
            exactly) or ``peft`` (LoRA only).
        output: must not exist.
        overrides: ``key.sub=value`` over the adapter's recipe.

    Raises:
        UsageError: the output exists.
        ExportError, MergeError: the format cannot express the model, or the file does not reproduce it.
    """
    refuse_existing(output, file=layout != "peft")
    opened = open_trained(path, overrides)
    found, note = check_clouds(opened)
    batches, model, manifest = [each for each in found if isinstance(each, Tensor)], opened.model, opened.manifest
    if not batches:
        raise ExportError(
            f"{layout} is for networks of objects; {model.name} reads scenes of any size, whose shapes depend on them",
            "Merge the adapter, which writes a checkpoint in the official layout, or use it from Python.",
        )
    clouds = torch.cat(batches)
    if layout == "onnx":
        from geopeft_cli.exporting.onnx import export_onnx

        return ExportResult(output, export_onnx(model, output, clouds, manifest), note)
    if layout == "pt2":
        from geopeft_cli.exporting.program import export_program

        return ExportResult(output, export_program(model, output, clouds, manifest), note)
    if layout == "official":
        from geopeft_cli.exporting.official import export_official

        merged = merge(model, "exact", batches).model
        return ExportResult(output, export_official(merged, output, clouds, manifest), note)
    from geopeft_cli.exporting.peft import export_peft

    settings = opened.recipe.method.model_dump()
    return ExportResult(output, export_peft(model, output, clouds, manifest, settings), note)
