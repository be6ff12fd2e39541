"""Whole fine-tuning models of plain ViTs over patches, filled directly and through our checkpoint loader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.backbones.act import ACT
from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.backbones.point_bert import PointBERT
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.recon import ReCon
from geopeft_cli.geometry.grouping import group
from geopeft_cli.tasks.classification import Classification
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors, complete

# Arguments of the constructors, and the words of the configurations for them.
SIZES = {
    "width": ("trans_dim", "embed_dim"),
    "depth": ("depth",),
    "heads": ("num_heads",),
    "groups": ("num_group",),
    "group_size": ("group_size",),
    "drop_path": ("drop_path_rate",),
}


def run(kind: type[PatchTransformer], golden: GoldenSet) -> Iterator[Output]:
    (name,) = golden.meta["inputs"]
    points = torch.from_numpy(golden.input(name))
    for route in golden.routes():
        model = _loaded(kind, golden, route) if route.name == "pretrain" else _filled(kind, route)
        together = _outputs(model, points)
        alone = [_outputs(model, cloud) for cloud in points.split(1)]
        for file in route.files:
            for output, value in together.items():
                yield Output(file, output, value)
                yield Output(file, output, torch.cat([one[output] for one in alone]))


def _model(kind: type[PatchTransformer], config: dict[str, Any]) -> PatchTransformer:
    sizes = {name: next(config[word] for word in words if word in config) for name, words in SIZES.items()}
    if kind.patch_width:
        return kind(**sizes, encoder_width=config["encoder_dims"])
    assert config.get("encoder_dims", sizes["width"]) == sizes["width"], "patches have as many channels as tokens"
    return kind(**sizes)


def _task(route: Route) -> Classification:
    return Classification([str(label) for label in range(route.config["cls_dim"])])


def _filled(kind: type[PatchTransformer], route: Route) -> PatchTransformer:
    model = _model(kind, route.config)
    _task(route).attach(model)
    model.load_state_dict(as_tensors(route.weights))
    return model.eval()


def _loaded(kind: type[PatchTransformer], golden: GoldenSet, route: Route) -> PatchTransformer:
    """The same model by way of a pre-training file, made for the purpose, and the loader that users meet."""
    prefix = golden.meta.get("prefix", "")
    content = {prefix + key: _entry(kind, key, shape) for key, shape in golden.json("keys.json").items()}
    model = _model(kind, route.config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), kind.name, kind.layout)
        sizes = infer_sizes(checkpoint, {"heads": model.heads})
        assert sizes == {name: model.settings()[name] for name in sizes}, f"inferred {sizes}"
        fresh = load_backbone(model, checkpoint)
    _task(route).attach(model)
    complete(model, fresh, route)
    return model.eval()


def _entry(kind: type[PatchTransformer], key: str, shape: Sequence[int]) -> Tensor:
    """A tensor of the pre-training file. What the model ignores has its shape, but a single number in the file."""
    if key.startswith(kind.layout.ignored):
        return torch.zeros(()).expand(tuple(shape))
    return torch.from_numpy(fill(key, shape))


@torch.no_grad()
def _outputs(model: PatchTransformer, points: Tensor) -> dict[str, Tensor]:
    groups = group(points, model.groups, model.group_size, model.near_origin)
    tokens = model.encode(points, layers=range(model.depth))
    outputs = {
        "fps_idx.0": groups.center_index,
        "knn_idx.0": groups.neighbor_index,
        "knn_idx_sorted_by_index.0": groups.neighbor_index.sort(dim=-1).values,
        "group_tokens": model.patches(groups.neighborhoods),
        "norm": tokens.features,
        "feature": model.pool(tokens),
        "logits": model(points),
    }
    for index, layer in tokens.layers.items():
        outputs |= {f"block{index}.mean": layer.mean(dim=1), f"block{index}.tok0": layer[:, 0]}
    return outputs


act = partial(run, ACT)
point_bert = partial(run, PointBERT)
point_mae = partial(run, PointMAE)
recon = partial(run, ReCon)
