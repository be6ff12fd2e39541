"""Scene networks: stages, geometry, logits and decoder, filled directly and through our checkpoint loader.

Outputs without ``varlen.`` are of the released code without flash attention, where the smallest scene of a batch
limits the patches of all. Those of ``any`` implementation are run scene by scene as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.ptv3 import PTv3
from geopeft_cli.backbones.scene_level import PatchRule, SceneLevel
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.contracts import Scenes, official_state
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors

FILE = "io.safetensors"
RULES: dict[PatchRule, str] = {"varlen": "varlen.", "legacy_min": ""}  # and the marks of their outputs
# Arguments of the constructor, and the words of the configurations for them.
SETTINGS = {
    "in_channels": "in_channels",
    "widths": "enc_channels",
    "depths": "enc_depths",
    "heads": "enc_num_head",
    "patch_size": "enc_patch_size",
    "stride": "stride",
    "curves": "order",
    "drop_path": "drop_path",
}
DECODER = {
    "decoder_widths": "dec_channels",
    "decoder_depths": "dec_depths",
    "decoder_heads": "dec_num_head",
    "decoder_patch_size": "dec_patch_size",
}


def run(kind: type[SceneTransformer], golden: GoldenSet) -> Iterator[Output]:
    for route in golden.routes():
        patterns = patterns_of(golden, route)
        model = loaded(kind, golden, route)
        for prefix in prefixes(golden):
            scenes = scenes_of(golden, prefix)
            for rule, mark in RULES.items():
                stored = recorded(golden, f"{prefix}{mark}", patterns)
                if not stored:
                    continue
                couple(model, rule)
                outputs = _outputs(model, scenes)
                if rule == "varlen" and len(scenes.offsets) > 2:
                    _require_independence(model, scenes, outputs["logits" if model.task else "decoder"])
                for name, value in outputs.items():
                    for form, tensor in forms(golden, f"{prefix}{mark}{name}", value):
                        if form in stored:
                            yield Output(FILE, form, tensor)


def couple(model: SceneTransformer, rule: PatchRule) -> None:
    """Cut the scenes of a batch as the released code does, or each by itself."""
    model.attention_patches = rule
    model.serialization_depth = "scene" if rule == "varlen" else "batch"


def patterns_of(golden: GoldenSet, route: Route) -> list[str]:
    """The outputs that a model of a set has recorded."""
    return next(
        entry.get("outputs", ["*"]) for entry in golden.meta["weights"]["routes"] if entry["model"] == route.name
    )


def recorded(golden: GoldenSet, prefix: str, patterns: list[str]) -> set[str]:
    """The recorded outputs behind a prefix that some pattern describes."""
    names = {name for name in golden.stored[FILE] if name.startswith(prefix)}
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def prefixes(golden: GoldenSet) -> list[str]:
    """What stands before the names of every batch of scenes of a set."""
    return [name.removesuffix("grid_coord") for name in golden.meta["inputs"] if name.endswith("grid_coord")]


def scenes_of(golden: GoldenSet, prefix: str) -> Scenes:
    coordinates, voxels, features, ends = (
        torch.from_numpy(golden.input(f"{prefix}{name}")) for name in ("coord", "grid_coord", "feat", "offset")
    )
    return Scenes(coordinates, voxels.long(), features, torch.cat([ends.new_zeros(1), ends]).long())


def scene_alone(scenes: Scenes, index: int) -> Scenes:
    rows = slice(int(scenes.offsets[index]), int(scenes.offsets[index + 1]))
    offsets = torch.tensor([0, rows.stop - rows.start])
    return Scenes(scenes.coordinates[rows], scenes.voxels[rows], scenes.features[rows], offsets)


def constructed(kind: type[SceneTransformer], route: Route, config: dict[str, Any]) -> SceneTransformer:
    config = {**config, **route.config}
    has_decoder = any(name.startswith("dec.") for name in route.weights)
    words = SETTINGS | (DECODER if has_decoder else {})
    settings: dict[str, Any] = {name: config[word] for name, word in words.items()}
    if kind is Sonata:
        settings["mask_token"] = "embedding.mask_token" in route.weights
    return kind(**settings)


def loaded(kind: type[SceneTransformer], golden: GoldenSet, route: Route) -> SceneTransformer:
    """The model by way of a trainer's file, made for the purpose, and the loader that users meet."""
    model = constructed(kind, route, golden.config)
    weights = {name.removeprefix("module."): tensor for name, tensor in as_tensors(route.weights).items()}
    has_head = "seg_head.weight" in weights
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_best.pth"
        names = (name if name.startswith("seg_head.") else f"backbone.{name}" for name in weights)
        content = {f"module.{name}": tensor for name, tensor in zip(names, weights.values(), strict=True)}
        torch.save({"epoch": 1, "state_dict": content, "optimizer": {}}, path)
        checkpoint = read_checkpoint(str(path), kind.name, kind.layout)
        sizes = infer_sizes(checkpoint, {})
        assert sizes == {name: getattr(model, name) for name in ("widths", "depths", "in_channels")}, (
            f"inferred {sizes}"
        )
        assert load_backbone(model, checkpoint) == ()
        if has_head:
            classes, width = weights["seg_head.weight"].shape
            assert width == model.feature_width
            VoxelSegmentation([str(index) for index in range(classes)]).attach(model)
            load_head(model, checkpoint)
    state = official_state(model)
    assert state.keys() == weights.keys(), f"not in both: {sorted(state.keys() ^ weights.keys())}"
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    return model.eval()


@torch.no_grad()
def _outputs(model: SceneTransformer, scenes: Scenes) -> dict[str, Tensor]:
    levels = model.levels(scenes)
    tokens = model.encode(scenes, layers=range(model.depth))
    outputs: dict[str, Tensor] = {}
    stages, first = [], 0
    for half, depths in (("enc", model.depths), ("dec", model.decoder_depths)):
        order = range(len(depths)) if half == "enc" else reversed(range(len(depths)))
        for index in order:
            for block in range(depths[index]):
                outputs[f"block.{half}.{half}{index}.block{block}"] = tokens.layers[first + block]
            first += depths[index]
            outputs[f"{half}.{half}{index}"] = tokens.layers[first - 1]
            if half == "enc":
                stages.append(tokens.layers[first - 1])
                outputs |= {f"stage{index}": stages[-1]} | _geometry(f"stage{index}", levels[index])
    outputs |= {"upcast_all": model.joined(levels, stages), "upcast2": model.joined(levels, stages, 2)}
    if model.decoder_widths:
        outputs["decoder"] = tokens.features
    if model.task is not None:
        outputs["logits"] = model(scenes)
    return outputs


def _geometry(name: str, level: SceneLevel) -> dict[str, Tensor]:
    orders = torch.stack([level.order(turn)[:64] for turn in range(len(level.curves))])
    return {
        f"{name}.count": torch.tensor(level.sizes),
        f"{name}.order_head": orders,
        f"{name}.row_index": row_index(len(level.voxels), 64),
        f"{name}.grid_coord_rows": level.voxels[row_index(len(level.voxels), 64)],
    }


def row_index(size: int, most: int) -> Tensor:
    """Which rows of so many were recorded."""
    count = min(most, size)
    return (torch.arange(count) * ((size - 1) / max(count - 1, 1))).round().long()


def forms(golden: GoldenSet, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The recorded forms of an output: as it is, some rows, mean and deviation."""
    stored = golden.stored[FILE]
    if name in stored:
        yield name, value
    if f"{name}.rows" in stored:
        yield f"{name}.rows", value[row_index(len(value), len(stored[f"{name}.rows"]))]
    if f"{name}.mean" in stored:
        yield f"{name}.mean", value.mean(dim=0)
    if f"{name}.std" in stored:
        yield f"{name}.std", value.std(dim=0)


@torch.no_grad()
def _require_independence(model: SceneTransformer, scenes: Scenes, together: Tensor) -> None:
    """Stop where a scene of the batch is predicted in another way than alone."""
    parts = [scene_alone(scenes, index) for index in range(len(scenes.offsets) - 1)]
    alone = torch.cat([model(part) if model.task else model.encode(part).features for part in parts])
    error = float((together - alone).abs().max())
    assert error <= 1e-4 * max(float(together.abs().max()), 1.0), f"a scene alone differs by {error:.1e}"


ptv3 = partial(run, PTv3)
sonata = partial(run, Sonata)
