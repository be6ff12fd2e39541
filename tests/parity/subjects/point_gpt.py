"""The whole classifier of PointGPT, through our checkpoint loader and filled directly."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.gpt import position_encoding
from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.contracts import load_official_state, official_state
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.ordering import greedy_order
from geopeft_cli.tasks.classification import Classification
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors


def run(golden: GoldenSet) -> Iterator[Output]:
    (name,) = golden.meta["inputs"]
    points = torch.from_numpy(golden.input(name))
    (route,) = golden.routes()
    model = _loaded(golden, route)
    together = _outputs(model, points)
    alone = [_outputs(model, cloud) for cloud in points.split(1)]
    for file in route.files:
        for output, value in together.items():
            yield Output(file, output, value)
            if output not in ("recon_loss", "ln_f_sample0", "pos_embed_sorted_center_sample0"):
                axis = 1 if output.endswith("block_mean") else 0
                yield Output(file, output, torch.cat([one[output] for one in alone], dim=axis))


def _loaded(golden: GoldenSet, route: Route) -> PointGPT:
    """The model by way of a pre-training file, made for the purpose, and the loader that users meet."""
    config = route.config
    content = {
        golden.meta.get("prefix", "") + key: torch.from_numpy(fill(key, shape))
        for key, shape in golden.json("keys.json").items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), PointGPT.name, PointGPT.layout)
        sizes = infer_sizes(checkpoint, {})
        known = {"width": config["trans_dim"], "depth": config["depth"], "heads": config["num_heads"]}
        assert known.items() <= sizes.items(), f"inferred {sizes}"
        model = PointGPT(**sizes, groups=config["num_group"], group_size=config["group_size"])
        fresh = load_backbone(model, checkpoint)
    Classification([str(label) for label in range(config["cls_dim"])]).attach(model)
    weights = {model.layout.own_name(name): tensor for name, tensor in as_tensors(route.weights).items()}
    rest = (*fresh, *(name for name in weights if name.startswith(model.layout.head)))
    load_official_state(model, {name: weights[name] for name in rest})
    state = {model.layout.file_name(name): tensor for name, tensor in official_state(model).items()}
    assert state.keys() == route.weights.keys(), f"not in both: {sorted(state.keys() ^ route.weights.keys())}"
    for name, array in route.weights.items():
        assert torch.equal(state[name], torch.from_numpy(array)), f"the loader puts something else in {name}"
    return model.eval()


@torch.no_grad()
def _outputs(model: PointGPT, points: Tensor) -> dict[str, Tensor]:
    groups = group(points, model.groups, model.group_size, model.near_origin)
    neighborhoods, centers = model.patches(points)
    patches = model.encoder(neighborhoods)
    tokens = model.encode(points, layers=range(model.depth))
    normalized = model.blocks.ln_f(tokens.layers[model.depth - 1])
    generator = model.generator_blocks
    means: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: means.append(output.mean(dim=1)))
        for layer in generator.layers
    ]
    generated = generator.generate(normalized, centers)
    for hook in hooks:
        hook.remove()
    return {
        "fps_idx": groups.center_index,
        "knn_idx": groups.neighbor_index,
        "order": greedy_order(groups.centers),
        "center_sorted": centers,
        "pos_embed_sorted_center_sample0": position_encoding(centers[0], model.width),
        "encoder_tokens_first8": patches[:, :8],
        "encoder_tokens_mean": patches.mean(dim=1),
        "block_mean": torch.stack([layer.mean(dim=1) for layer in tokens.layers.values()]),
        "ln_f_mean": normalized.mean(dim=1),
        "ln_f_first4": normalized[:, :4],
        "ln_f_sample0": normalized[0],
        "gen_block_mean": torch.stack(means),
        "gen_points_group_mean": generated.mean(dim=2),
        "recon_loss": model.reconstruction_loss(normalized, neighborhoods, centers).view(1),
        "logits": model(points),
    }
