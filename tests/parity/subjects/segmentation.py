"""Whole segmentation models, filled directly and through our checkpoint loader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.backbones import backbone_class
from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.point_m2ae import PointM2AE
from geopeft_cli.contracts import Backbone, load_official_state, official_state
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.sampling import farthest_point_sample
from geopeft_cli.tasks.segmentation import PartSegmentation, SceneSegmentation, Segmentation
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors

CATEGORIES = 16
IGNORED_HERE = ("generator_blocks.",)  # in the official model, and of no influence on a label


def run(name: str, golden: GoldenSet) -> Iterator[Output]:
    points = torch.from_numpy(golden.input("pts"))
    categories = (
        torch.from_numpy(golden.input("class_label")).long() if "class_label" in golden.meta["inputs"] else None
    )
    grouping: dict[str, Tensor] = {}
    for route in golden.routes():
        model = _filled(name, route) if route.name == "finetune" else _loaded(name, golden, route)
        together = _outputs(model, points, categories)
        grouping = grouping or _grouping(model, points)
        alone = _outputs(model, points[-1:], None if categories is None else categories[-1:])
        for file in route.files:
            for output, value in (together | grouping).items():
                yield Output(file, output, value)
            for output, value in alone.items():
                yield Output(file, output, torch.cat([together[output][:-1], value]))


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the recipe; the others are read from the checkpoint."""
    if "num_groups" in config:
        return {
            "groups": config["num_groups"],
            "group_size": config["group_sizes"],
            "radius": config["local_radius"],
        }
    return {"groups": config["num_group"], "group_size": config["group_size"]}


def _task(route: Route, name: str) -> Segmentation:
    labels = [str(label) for label in range(route.config["cls_dim"])]
    kind = SceneSegmentation if name == "act" else PartSegmentation
    classes = ["scene"] if name == "act" else [str(category) for category in range(CATEGORIES)]
    return kind(classes, labels, {one: range(len(labels)) for one in classes})


def _filled(name: str, route: Route) -> Backbone:
    model = backbone_class(name)(**_sizes(route.config), dense=True)
    _task(route, name).attach(model)
    model.load_state_dict(_weights(model, route))
    return model.eval()


def _weights(model: Backbone, route: Route) -> dict[str, Tensor]:
    own = {model.layout.own_name(key): tensor for key, tensor in as_tensors(route.weights).items()}
    return {key: tensor for key, tensor in own.items() if not key.startswith(IGNORED_HERE)}


def _loaded(name: str, golden: GoldenSet, route: Route) -> Backbone:
    """The model by way of a pre-training file, made for the purpose, and the loader that users meet."""
    kind, prefix = backbone_class(name), golden.meta.get("prefix", "")
    ignored = tuple(key for key in kind.layout.ignored if key not in kind.layout.dense)
    content = {  # what the loader must leave aside has its shape, but a single number in the file
        prefix + key: torch.zeros(()).expand(tuple(shape))
        if key.startswith(ignored)
        else torch.from_numpy(fill(key, shape))
        for key, shape in golden.json("keys.json").items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), name, kind.layout, dense=True)
        model = kind(**infer_sizes(checkpoint, {}), **_sizes(route.config), dense=True)
        fresh = load_backbone(model, checkpoint)
    _task(route, name).attach(model)
    weights = _weights(model, route)
    rest = (*fresh, *(key for key in weights if key.startswith(model.layout.head)))
    load_official_state(model, {key: weights[key] for key in rest})
    state = official_state(model)
    assert state.keys() == weights.keys(), f"not in both: {sorted(state.keys() ^ weights.keys())}"
    for key, tensor in weights.items():
        assert torch.equal(state[key], tensor), f"the loader puts something else in {key}"
    return model.eval()


@torch.no_grad()
def _outputs(model: Backbone, points: Tensor, categories: Tensor | None) -> dict[str, Tensor]:
    """Everything that is recorded, under the names of both families of sets."""
    outputs: dict[str, Tensor] = {}
    names = {f"blocks.blocks.{index}": f"block{index}" for index in range(model.depth)}
    names |= {"encoder": "group_tokens", "label_conv": "label_feat"}
    modules = {name: module for name, module in model.named_modules() if name in names}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, value, output=names[name]: outputs.update({output: value})
        )
        for name, module in modules.items()
    ]
    log_probs = model(points, categories).log_softmax(dim=-1)
    for hook in hooks:
        hook.remove()
    for name in [name for name in outputs if name.startswith("block")]:
        block = outputs.pop(name)
        outputs |= {f"{name}.mean": block.mean(dim=1), f"{name}.tok0": block[:, 0]}
    if "group_tokens" in outputs:
        outputs["group_tokens.mean"] = outputs["group_tokens"].mean(dim=1)
    return outputs | {
        "log_probs": log_probs,
        "logprob_first32": log_probs[:, :32],
        "logprob_every16": log_probs[:, ::16],
        "logprob_mean": log_probs.mean(dim=1),
        "argmax": log_probs.argmax(dim=-1),
    }


def _grouping(model: Backbone, points: Tensor) -> dict[str, Tensor]:
    if isinstance(model, PointM2AE):
        stages = model.grouped(points)
        outputs = {f"fps_idx_{stage}": groups.center_index for stage, groups in enumerate(stages)}
        return outputs | {f"knn_idx_{stage}": groups.neighbor_index for stage, groups in enumerate(stages)}
    settings = model.settings()
    near_origin = settings["near_origin"]
    groups = group(points, settings["groups"], settings["group_size"], near_origin)
    return {
        "fps_idx_0": groups.center_index,
        "knn_idx_0": groups.neighbor_index,
        "fps_idx.0": groups.center_index,
        "fps_idx.1": farthest_point_sample(points, 512, near_origin),
        "fps_idx.2": farthest_point_sample(points, 256, near_origin),
        "knn_idx.0": groups.neighbor_index,
        "knn_idx_sorted_by_index.0": groups.neighbor_index.sort(dim=-1).values,
    }


act = partial(run, "act")
point_bert = partial(run, "point_bert")
point_gpt = partial(run, "point_gpt")
point_m2ae = partial(run, "point_m2ae")
point_mae = partial(run, "point_mae")
recon = partial(run, "recon")
