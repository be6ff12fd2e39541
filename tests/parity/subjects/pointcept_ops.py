"""The operations of scene networks by themselves: convolution, curves, patches, pooling, keys, loss and metrics."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from geopeft_cli.geometry.patches import patch_tables
from geopeft_cli.geometry.serialization import curve_codes, with_scene
from geopeft_cli.geometry.sparse_convolution import neighbor_map, submanifold_convolution
from geopeft_cli.geometry.voxels import fnv_hash, grid_pool
from geopeft_cli.tasks.voxel_segmentation import overlap_counts, segmentation_losses, segmentation_metrics
from parity.golden_set import GoldenSet
from parity.subjects import Output
from parity.tensors import as_tensors

FILE = "io.safetensors"


def run(golden: GoldenSet) -> Iterator[Output]:
    yield from _convolution_and_pooling(golden)
    yield from _curves(golden)
    for name in golden.meta["inputs"]:
        if name.startswith("pad."):
            case = name.removesuffix(".counts")
            tables = patch_tables(golden.input(name).tolist(), int(case.removeprefix("pad.K")))
            for part, tensor in zip(("pad", "unpad", "cu_seqlens"), tables, strict=True):
                yield Output(FILE, f"{case}.{part}", tensor)
    yield from _loss_and_metrics(golden)


def _convolution_and_pooling(golden: GoldenSet) -> Iterator[Output]:
    """The recorded rows mix the scenes of the batch; here they are sorted by scene and put back."""
    (route,) = golden.routes()
    weights = {name.rpartition(".")[2]: tensor for name, tensor in as_tensors(route.weights).items()}
    x, indices = torch.from_numpy(golden.input("subm.x")), torch.from_numpy(golden.input("subm.indices")).long()
    order = indices[:, 0].argsort(stable=True)
    place = order.argsort()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), indices[:, 0].bincount().cumsum(0)])
    voxels = indices[order, 1:]
    neighbors = neighbor_map(voxels, offsets, golden.config["subm"]["kernel"])
    yield Output(
        FILE, "subm.out", submanifold_convolution(x[order], weights["weight"], weights["bias"], neighbors)[place]
    )
    pooled = grid_pool(voxels, offsets)
    yield Output(FILE, "pool.grid_coord", pooled.voxels)
    yield Output(FILE, "pool.inverse", pooled.clusters.inverse[place])
    yield Output(FILE, "pool.counts", pooled.clusters.counts)


def _curves(golden: GoldenSet) -> Iterator[Output]:
    voxels, scene = (torch.from_numpy(golden.input(f"ser.{name}")).long() for name in ("grid_coord", "batch"))
    depth = int(golden.input("ser.depth")[0])
    for name in golden.stored[FILE]:
        if name.startswith("ser.code."):
            codes = curve_codes(voxels, depth, name.removeprefix("ser.code."))
            yield Output(FILE, name, with_scene(codes, scene, depth))
    yield Output(FILE, "fnv.hash_int64", fnv_hash(voxels))


def _loss_and_metrics(golden: GoldenSet) -> Iterator[Output]:
    logits = torch.from_numpy(golden.input("loss.logits")).requires_grad_()
    labels = torch.from_numpy(golden.input("loss.target")).long()
    losses = segmentation_losses(logits, labels)
    (gradient,) = torch.autograd.grad(sum(losses), logits)
    yield Output(FILE, "loss.ce_lovasz", torch.stack(losses))
    yield Output(FILE, "loss.grad", gradient)
    counts = overlap_counts(logits.argmax(dim=1), labels, logits.shape[1])
    figures = segmentation_metrics(counts)
    yield Output(FILE, "metric.IUT", counts)
    figures = [figures[name] / 100 for name in ("miou", "mean_class_accuracy", "accuracy")]
    yield Output(FILE, "metric.miou_macc_allacc", torch.tensor(figures))
