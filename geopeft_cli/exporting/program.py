"""The model as one torch.export program, from points to logits."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.contracts import Backbone
from geopeft_cli.exporting.verification import (
    Verification,
    arguments,
    prepared,
    record,
    require_suffix,
    resized,
    standalone,
    verify,
)
from geopeft_cli.storage import new_file

RECORD = "geopeft.json"
LARGEST = 2**31 - 1  # torch 2.6 records no graph for sizes without an upper bound


def export_program(model: Backbone, path: Path, clouds: Tensor, manifest: Manifest) -> Verification:
    """Write a ``.pt2`` file for ``torch.export.load`` that holds weights, grouping and all, and verify it.

    Its argument is ``points`` (batch, n, 3), with ``categories`` int64 (batch,) behind it where the model is told
    them, its result the logits (batch, classes), or (batch, n, classes) for a
    label a point, for any batch and any n that gives every group its points. The extra file ``geopeft.json`` holds
    class names and input preparation.

    Args:
        model: with its task, with or without wrappers.
        path: the file, replaced if it exists.
        clouds: real clouds (B, N, 3), prepared as for the model, to verify with.
        manifest: for class names and input preparation.

    Raises:
        UsageError: another suffix.
        ExportError: the written program does not reproduce the model; no file is left.
        ShapeError: ``clouds`` is not (B, N, 3) or too small for the backbone.
    """
    require_suffix(path, ".pt2")
    alone = standalone(model)
    clouds = prepared(clouds, model)
    program = trace(alone, clouds)
    with new_file(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, partial, extra_files={RECORD: json.dumps(record(manifest))})
        written = torch.export.load(partial).module()
        return verify(written, alone, clouds, partial)


@torch.no_grad()
def trace(model: Backbone, clouds: Tensor) -> ExportedProgram:
    """Record the model, in evaluation mode on the CPU, for any batch and any number of points.

    Source positions are left out: they are the paths of this machine.
    """
    batch, n = Dim("batch", min=1, max=LARGEST), Dim("n", min=model.fewest_points, max=LARGEST)
    example = arguments(model, resized(clouds, 3, clouds.shape[1]))
    dims = {name: {0: batch, 1: n} if name == "points" else {0: batch} for name in example}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, tuple(example.values()), dynamic_shapes=dims, strict=False)
    program.graph.eliminate_dead_code()  # questions about dtypes, which torch 2.6 writes but cannot read
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
