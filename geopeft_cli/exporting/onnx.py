"""The model as one self-contained ONNX file, from points to logits."""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.contracts import Backbone
from geopeft_cli.errors import ExportError, MissingDependencyError
from geopeft_cli.exporting.program import trace
from geopeft_cli.exporting.verification import (
    Verification,
    arguments,
    prepared,
    record,
    require_suffix,
    standalone,
    verify,
)
from geopeft_cli.storage import new_file

PROVIDERS = ["CPUExecutionProvider"]


def export_onnx(model: Backbone, path: Path, clouds: Tensor, manifest: Manifest) -> Verification:
    """Write one ONNX file that holds weights, grouping and all, and verify it with onnxruntime.

    Input ``points`` float32 (batch, n, 3) and, where the model is told them, ``categories`` int64 (batch,); output
    ``logits`` float32 (batch, classes), or (batch, n, classes) for a label a point; for any batch and any n that gives
    every group its points. Class names and input preparation are in the metadata of the file. The graph has operators
    of the standard alone.

    Args:
        model: with its task, with or without wrappers.
        path: the file, replaced if it exists.
        clouds: real clouds (B, N, 3), prepared as for the model, to verify with.
        manifest: for class names and input preparation.

    Raises:
        UsageError: another suffix.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        ExportError: torch cannot translate the model, or the written graph does not reproduce it; no file is left.
        ShapeError: ``clouds`` is not (B, N, 3) or too small for the backbone.
    """
    require_suffix(path, ".onnx")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingDependencyError(
                f"export to ONNX needs {name}, which is not installed", 'Run pip install "geopeft[export]".'
            ) from None
    import onnx

    alone = standalone(model)
    clouds = prepared(clouds, model)
    graph = _folded(_translated(alone, clouds))
    onnx.helper.set_model_props(graph, record(manifest))
    onnx.checker.check_model(graph)
    with new_file(path) as partial:
        onnx.save(graph, partial)
        return verify(_runner(partial), alone, clouds, partial)


def _translated(model: Backbone, clouds: Tensor) -> Any:
    """The model as an ``onnx.ModelProto``, not optimized."""
    import onnxscript.optimizer

    program, names = trace(model, clouds), list(arguments(model, clouds))
    with _quiet():
        # torch's own optimizer takes most of the time and leaves the folding of large weights undone
        try:
            exported = torch.onnx.export(
                program, (), dynamo=True, input_names=names, output_names=["logits"], verbose=False, optimize=False
            )
        except RuntimeError as error:
            raise ExportError(
                f"torch {torch.__version__} could not translate the model to ONNX: {str(error).splitlines()[0]}",
                "Update torch, onnx and onnxscript together, or export to pt2.",
            ) from None
        assert exported is not None
        onnxscript.optimizer.inline(exported.model)
        onnxscript.optimizer.fold_constants(exported.model)
        onnxscript.optimizer.remove_unused_nodes(exported.model)
    return exported.model_proto


def _folded(graph: Any) -> Any:
    """The graph after onnxruntime has computed all that depends on weights alone, without traces of this machine."""
    import onnx
    import onnxruntime

    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(graph, before)
        options.optimized_model_filepath = str(after)
        onnxruntime.InferenceSession(before, options, providers=PROVIDERS)
        folded = onnx.load(after)
    used = {node.domain for node in folded.graph.node}
    opsets = [opset for opset in folded.opset_import if opset.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(opsets)
    for entry in (*folded.graph.node, *folded.graph.input, *folded.graph.output, *folded.graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]
    del folded.graph.metadata_props[:]
    del folded.graph.value_info[:]
    for value in (*folded.graph.input, *folded.graph.output):
        free = [dimension for dimension in value.type.tensor_type.shape.dim if not dimension.HasField("dim_value")]
        for dimension, name in zip(free, ("batch", "n"), strict=False):
            dimension.dim_param = name
    return folded


def _runner(path: Path) -> Callable[..., Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, _options(), providers=PROVIDERS)

    names = [each.name for each in session.get_inputs()]

    def run(*given: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], dict(zip(names, (x.numpy() for x in given), strict=True)))[0])

    return run


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return options


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress, warnings and log lines of the exporter, which tell a user of ours nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
