"""The whole fine-tuning model of PointMamba through our checkpoint loader, per sample and in its released form."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.point_mamba import PointMamba
from geopeft_cli.contracts import official_state
from geopeft_cli.geometry.grouping import group
from geopeft_cli.tasks.classification import Classification
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output

FILE = "io.safetensors"


def run(golden: GoldenSet) -> Iterator[Output]:
    points = torch.from_numpy(golden.input("pts"))
    (route,) = golden.routes()
    model = _loaded(golden, route, "per_sample")
    yield from (Output(FILE, name, value) for name, value in _before_the_blocks(model, points).items())
    together = _outputs(model, points)
    alone = [_outputs(model, cloud) for cloud in points.split(1)]
    released = _outputs(_loaded(golden, route, "released"), points)
    for name, value in together.items():
        yield Output(FILE, name, value)
        if name != "out_sample0":
            yield Output(FILE, name, torch.cat([one[name] for one in alone], dim=1 if name == "block_mean" else 0))
        yield Output(FILE, name, released[name])


def _loaded(golden: GoldenSet, route: Route, variant: Literal["per_sample", "released"]) -> PointMamba:
    """By way of a pre-training file, made for the purpose, and the loader that users meet."""
    content = {f"module.{key}": torch.from_numpy(fill(key, shape)) for key, shape in golden.json("keys.json").items()}
    config = route.config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), PointMamba.name, PointMamba.layout)
        sizes = infer_sizes(checkpoint, {})
        assert sizes == {"width": config["trans_dim"], "depth": config["depth"]}, f"inferred {sizes}"
        model = PointMamba(
            **sizes,
            groups=config["num_group"],
            group_size=config["group_size"],
            drop_path=config["drop_path"],
            dropout=config["drop_out"],
            variant=variant,
        )
        assert load_backbone(model, checkpoint) == ()
    Classification([str(label) for label in range(config["cls_dim"])]).attach(model)
    state = official_state(model)
    assert state.keys() == route.weights.keys(), f"not in both: {sorted(state.keys() ^ route.weights.keys())}"
    for name, array in route.weights.items():
        if name.startswith(model.layout.head):
            state[name].copy_(torch.from_numpy(array))
        assert torch.equal(state[name], torch.from_numpy(array)), f"the loader puts something else in {name}"
    return model.eval()


@torch.no_grad()
def _before_the_blocks(model: PointMamba, points: Tensor) -> dict[str, Tensor]:
    groups = group(points, model.groups, model.group_size, model.near_origin)
    first, second = model.orders(groups.centers).unbind(1)
    return {
        "fps_idx": groups.center_index,
        "knn_idx": groups.neighbor_index,
        "order_hilbert": first,
        "order_hilbert_trans": second,
        "encoder_tokens_mean": model.encoder(groups.neighborhoods).mean(dim=1),
    }


@torch.no_grad()
def _outputs(model: PointMamba, points: Tensor) -> dict[str, Tensor]:
    tokens = model.encode(points, layers=range(model.depth))
    return {
        "block_mean": torch.stack([tokens.layers[index].mean(dim=1) for index in range(model.depth)]),
        "out_first4": tokens.features[:, :4],
        "out_mean": tokens.features.mean(dim=1),
        "out_sample0": tokens.features[0],
        "logits": model.get_submodule("cls_head_finetune")(model.pool(tokens)),
    }
