"""The whole fine-tuning model of Point-MAE, filled directly and through our checkpoint loader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import official_state
from geopeft_cli.geometry.grouping import group
from geopeft_cli.tasks.classification import Classification
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors


def run(golden: GoldenSet) -> Iterator[Output]:
    (name,) = golden.meta["inputs"]
    points = torch.from_numpy(golden.input(name))
    for route in golden.routes():
        model = _loaded(golden, route) if route.name == "pretrain" else _filled(route)
        together = _outputs(model, points)
        alone = [_outputs(model, cloud) for cloud in points.split(1)]
        for file in route.files:
            for output, value in together.items():
                yield Output(file, output, value)
                yield Output(file, output, torch.cat([one[output] for one in alone]))


def _model(route: Route) -> PointMAE:
    config = route.config
    return PointMAE(
        width=config["trans_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        groups=config["num_group"],
        group_size=config["group_size"],
        drop_path=config["drop_path_rate"],
    )


def _task(route: Route) -> Classification:
    return Classification([str(label) for label in range(route.config["cls_dim"])])


def _filled(route: Route) -> PointMAE:
    model = _model(route)
    _task(route).attach(model)
    model.load_state_dict(as_tensors(route.weights))
    return model.eval()


def _loaded(golden: GoldenSet, route: Route) -> PointMAE:
    """The same model by way of a pre-training file, made for the purpose, and the loader that users meet."""
    prefix = golden.meta.get("prefix", "")
    content = {prefix + key: torch.from_numpy(fill(key, shape)) for key, shape in golden.json("keys.json").items()}
    model = _model(route)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), PointMAE.name, PointMAE.layout)
        sizes = infer_sizes(checkpoint, {"heads": model.heads})
        assert sizes == {"width": model.width, "depth": model.depth, "heads": model.heads}, f"inferred {sizes}"
        fresh = load_backbone(model, checkpoint)
    _task(route).attach(model)
    rest = {name: tensor for name, tensor in official_state(model).items() if name.startswith(model.layout.head)}
    rest |= {name: model.get_parameter(name) for name in fresh}
    with torch.no_grad():
        for name, tensor in rest.items():
            tensor.copy_(torch.from_numpy(fill(name, tensor.shape)))
    state = official_state(model)
    assert state.keys() == route.weights.keys(), f"not in both: {sorted(state.keys() ^ route.weights.keys())}"
    for name, array in route.weights.items():
        assert torch.equal(state[name], torch.from_numpy(array)), f"the loader puts something else in {name}"
    return model.eval()


@torch.no_grad()
def _outputs(model: PointMAE, points: Tensor) -> dict[str, Tensor]:
    groups = group(points, model.groups, model.group_size, model.near_origin)
    tokens = model.encode(points, layers=range(model.depth))
    outputs = {
        "fps_idx.0": groups.center_index,
        "knn_idx.0": groups.neighbor_index,
        "group_tokens": model.encoder(groups.neighborhoods),
        "norm": tokens.features,
        "feature": model.pool(tokens),
        "logits": model(points),
    }
    for index, layer in tokens.layers.items():
        outputs |= {f"block{index}.mean": layer.mean(dim=1), f"block{index}.tok0": layer[:, 0]}
    return outputs
