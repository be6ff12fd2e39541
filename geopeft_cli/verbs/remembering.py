"""Filling the memory of a method from the training clouds, once for the same clouds, network and settings."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.assemble import Experiment, make_cloud_batches
from geopeft_cli.backbones.checkpoint import fingerprint
from geopeft_cli.contracts import Memory, memories
from geopeft_cli.data.clouds import CloudSet
from geopeft_cli.recipe.backbones import ObjectBackboneSection
from geopeft_cli.reports.progress import counted
from geopeft_cli.storage import cache_folder, new_file

logger = logging.getLogger("geopeft")

RECORD_KEY = "geopeft_memory"  # in the header of the files in the cache


def remember(experiment: Experiment, clouds: CloudSet, device: torch.device) -> dict[str, Any] | None:
    """Fill the memory of a method, if it has one, from the training clouds as evaluation prepares them.

    Augmentation has no part in it. The vectors are kept in the cache folder, under a name made of everything that
    decides them, and are read from there when all of it is the same.

    Returns:
        What the record of the adapter says of it.

    Raises:
        UsageError: there are too few clouds.
    """
    found = None
    for memory in memories(experiment.model).values():
        record = {
            "network_sha256": fingerprint({name: t.cpu() for name, t in memory.sources().items()}),
            "network": memory.settings(),
            "clouds_sha256": clouds_digest(clouds),
            "preparation": _preparation(experiment),
        }
        path = cache_folder() / "memories" / f"{_digest(record)[:32]}.safetensors"
        vectors = read_vectors(path, record)
        if vectors is None:
            vectors = _described(memory, experiment, clouds, device)
            with new_file(path) as partial:
                write_tensors(partial, {"vectors": vectors}, {RECORD_KEY: json.dumps(record, sort_keys=True)})
        memory.fill(vectors, torch.from_numpy(clouds.labels()))
        found = {"clouds": len(vectors), **kept(memory), **record}
    return found


def kept(memory: Memory) -> dict[str, Any]:
    """Size and digest of what a memory holds."""
    columns = memory.columns.detach().cpu()
    return {
        "columns": columns.shape[1],
        "width": columns.shape[0],
        "precision": str(columns.dtype).removeprefix("torch."),
        "bytes": columns.numel() * columns.element_size(),
        "sha256": fingerprint({"columns": columns}),
    }


def clouds_digest(clouds: CloudSet) -> str:
    """SHA-256 over classes, labels and points of a set, in its order."""
    digest = hashlib.sha256(json.dumps([list(clouds.classes), clouds.labels().tolist()]).encode())
    for index in range(len(clouds)):
        points = np.ascontiguousarray(clouds[index].points)
        digest.update(f"{points.shape} {points.dtype}".encode())
        digest.update(points.data)
    return digest.hexdigest()


def read_vectors(path: Path, record: dict[str, Any]) -> Tensor | None:
    """The vectors in a file of the cache; ``None`` where there is none, or one that is damaged or of something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if json.loads((file.metadata() or {}).get(RECORD_KEY, "{}")) == json.loads(json.dumps(record)):
                vectors: Tensor = file.get_tensor("vectors")
                if vectors.isfinite().all():
                    return vectors
    except (SafetensorError, ValueError):
        pass
    logger.warning("%s is damaged, or was made of other clouds or another network: it is made again", path)
    return None


def _described(memory: Memory, experiment: Experiment, clouds: CloudSet, device: torch.device) -> Tensor:
    recipe = experiment.recipe
    batches = make_cloud_batches(recipe, clouds, "bank", training=False, batch_size=recipe.evaluation.batch_size)
    with closing(batches.epoch(0)) as every:
        shown = counted(every, len(batches), "bank")
        return torch.cat([memory.describe(batch.points.to(device)).cpu() for batch in shown])


def _preparation(experiment: Experiment) -> dict[str, Any]:
    recipe = experiment.recipe
    assert isinstance(recipe.backbone, ObjectBackboneSection)
    values = {name: getattr(recipe.data, name) for name in ("points", "normalize", "sampling")}
    return {**values, "near_origin": recipe.backbone.near_origin, "seed": recipe.seed}


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
