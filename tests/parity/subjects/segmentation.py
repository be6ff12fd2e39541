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
    for route in golden.routes():
        model = _filled(name, route) if route.name == "finetune" else _loaded(name, golden, route)
        together = _outputs(model, points, categories)
        alone = [
            _outputs(model, points[[one]], None if categories is None else categories[[one]])
            for one in range(len(points))
        ]
        for file in route.files:
            for output, value in together.items():
                yield Output(file, output, value)
                yield Output(file, output, torch.cat([one[output] for one in alone]))


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
    log_probs = model(points, categories).log_softmax(dim=-1)
    outputs = {
        "log_probs": log_probs,
        "logprob_first32": log_probs[:, :32],
        "logprob_every16": log_probs[:, ::16],
        "logprob_mean": log_probs.mean(dim=1),
        "argmax": log_probs.argmax(dim=-1),
    }
    tokens = model.encode(points, range(model.depth))
    for index, layer in tokens.layers.items():
        outputs |= {f"block{index}.mean": layer.mean(dim=1), f"block{index}.tok0": layer[:, 0]}
    if categories is not None and hasattr(model, "label_conv"):
        one_hot = torch.nn.functional.one_hot(categories, CATEGORIES).float().unsqueeze(-1)
        outputs["label_feat"] = model.get_submodule("label_conv")(one_hot)
    return outputs | _grouping(model, points)


def _grouping(model: Backbone, points: Tensor) -> dict[str, Tensor]:
    settings = model.settings()
    stages = (
        model.grouped(points)
        if tokens_have_stages(model)
        else [group(points, settings["groups"], settings["group_size"], settings["near_origin"])]
    )
    outputs = {}
    for stage, groups in enumerate(stages):
        for mark in ("_", "."):
            outputs |= {f"fps_idx{mark}{stage}": groups.center_index, f"knn_idx{mark}{stage}": groups.neighbor_index}
    if not tokens_have_stages(model):
        outputs["knn_idx_sorted_by_index.0"] = stages[0].neighbor_index.sort(dim=-1).values
        tokens = model.patches(stages[0].neighborhoods) if hasattr(model, "pos_embed") else None
        if tokens is not None:
            outputs |= {"group_tokens": tokens, "group_tokens.mean": tokens.mean(dim=1)}
        for level, count in ((1, 512), (2, 256)):
            outputs[f"fps_idx.{level}"] = farthest_point_sample(points, count, settings["near_origin"])
    return outputs


def tokens_have_stages(model: Backbone) -> bool:
    return hasattr(model, "grouped")


act = partial(run, "act")
point_bert = partial(run, "point_bert")
point_gpt = partial(run, "point_gpt")
point_m2ae = partial(run, "point_m2ae")
point_mae = partial(run, "point_mae")
recon = partial(run, "recon")
