"""The whole fine-tuning model of Mamba3D through our checkpoint loader, per sample and in its released form."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.mamba3d import Mamba3D
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.tasks.classification import Classification
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import complete

FILE = "io.safetensors"


def run(golden: GoldenSet) -> Iterator[Output]:
    points = torch.from_numpy(golden.input("pts"))
    (route,) = golden.routes()
    model = _loaded(golden, route, "per_sample")
    yield from (Output(FILE, name, value) for name, value in _before_the_blocks(model, points).items())
    together = _outputs(model, points)
    alone = [_outputs(model, cloud) for cloud in points.split(1)]
    batch_axis = {name: 1 if name.endswith("_mean") else 0 for name in together}
    for name in ("logits", "block_mean", "lfa_mean", "mixer_mean", "norm_first4"):
        target = "logits_each_sample_alone" if name == "logits" else f"alone.{name}"
        yield Output(FILE, target, together[name])
        yield Output(FILE, target, torch.cat([one[name] for one in alone], dim=batch_axis[name]))
    if "mixer0_out_sample0" in golden.stored[FILE]:
        with torch.no_grad():
            mixed = model.blocks.blocks[0].mixer(torch.from_numpy(golden.input("mixer0_in_sample0"))[None])[0]
        yield Output(FILE, "mixer0_out_sample0", mixed)
    released = _outputs(_loaded(golden, route, "released"), points)
    yield from (Output(FILE, name, value) for name, value in released.items())


def _loaded(golden: GoldenSet, route: Route, variant: Literal["per_sample", "released"]) -> Mamba3D:
    """By way of a pre-training file, made for the purpose, and the loader that users meet."""
    content = {f"module.{key}": torch.from_numpy(fill(key, shape)) for key, shape in golden.json("keys.json").items()}
    config = route.config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), Mamba3D.name, Mamba3D.layout)
        sizes = infer_sizes(checkpoint, {})
        assert sizes == {"width": config["trans_dim"], "depth": config["depth"]}, f"inferred {sizes}"
        model = Mamba3D(
            **sizes,
            groups=config["num_group"],
            group_size=config["group_size"],
            drop_path=config["drop_path_rate"],
            variant=variant,
        )
        fresh = load_backbone(model, checkpoint)
    Classification([str(label) for label in range(config["cls_dim"])]).attach(model)
    complete(model, fresh, route)
    return model.eval()


@torch.no_grad()
def _before_the_blocks(model: Mamba3D, points: Tensor) -> dict[str, Tensor]:
    groups = group(points, model.groups, model.group_size, model.near_origin)
    tokens = model.encoder(groups.neighborhoods)
    return {
        "fps_idx": groups.center_index,
        "knn_idx": groups.neighbor_index,
        "center": groups.centers,
        "knn_center_idx": nearest_neighbors(groups.centers, groups.centers, 4).index,
        "encoder_tokens_mean": tokens.mean(dim=1),
        "encoder_tokens_first4": tokens[:, :4],
        "pos_mean": model.pos_embed(groups.centers).mean(dim=1),
    }


@torch.no_grad()
def _outputs(model: Mamba3D, points: Tensor) -> dict[str, Tensor]:
    branches: dict[str, list[Tensor]] = {"lfa": [], "mixer": []}

    def listen(name: str) -> list[torch.utils.hooks.RemovableHandle]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            branches[name].append(output)

        return [getattr(block, name).register_forward_hook(keep) for block in model.blocks.blocks]

    handles = [handle for name in branches for handle in listen(name)]
    tokens = model.encode(points, layers=range(model.depth))
    for handle in handles:
        handle.remove()
    outputs = {f"{name}_mean": torch.stack([y.mean(dim=1) for y in values]) for name, values in branches.items()}
    return outputs | {
        "block_mean": torch.stack([tokens.layers[index].mean(dim=1) for index in range(model.depth)]),
        "lfa0_first8": branches["lfa"][0][:, :8],
        "mixer0_first8": branches["mixer"][0][:, :8],
        "norm_first4": tokens.features[:, :4],
        "norm_sample0": tokens.features[0],
        "logits": model.get_submodule("cls_head_finetune")(model.pool(tokens)),
    }
