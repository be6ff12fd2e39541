"""The whole fine-tuning models of Point-M2AE and I2P-MAE, filled directly and through our checkpoint loader.

Sets of Point-M2AE also hold a feature of the pre-training class in evaluation, which keeps the machinery of its
masking: tokens that no group of the next stage refers to are left out, and clouds that keep fewer are padded with
zeros, which are attended to within the radius. That feature is rebuilt here from the modules of our backbone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, read_checkpoint
from geopeft_cli.backbones.point_m2ae import I2PMAE, PointM2AE, Pooling, near
from geopeft_cli.contracts import Geometry, Level, published
from geopeft_cli.tasks.classification import Classification
from parity.fill import fill
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors, complete

FIRST = 4  # tokens that are recorded one by one


def run(kind: type[PointM2AE], golden: GoldenSet) -> Iterator[Output]:
    (name,) = golden.meta["inputs"]
    points = torch.from_numpy(golden.input(name))
    for route in golden.routes():
        if "mask_ratio" in route.config:
            yield Output("io.safetensors", "svm_feature_pretrain_cfg", _feature_of_pre_training(route, points))
            continue
        model = _filled(kind, route) if route.name == "finetune" else _loaded(kind, golden, route)
        together = _outputs(model, points)
        alone = [_outputs(model, cloud) for cloud in points.split(1)]
        for file in route.files:
            for output, value in together.items():
                yield Output(file, output, value)
                if not output.startswith("block_mean_"):  # has the clouds in the second axis
                    parts = torch.cat([one[output] for one in alone])
                    yield Output(file, output, parts[: len(value)])


def _model(kind: type[PointM2AE], route: Route) -> PointM2AE:
    config = route.config
    pooling: Pooling | None = "sum" if "ModelNet" in config["NAME"] else None
    return kind(
        widths=config["encoder_dims"],
        depths=config["encoder_depths"],
        heads=config["num_heads"],
        groups=config["num_groups"],
        group_size=config["group_sizes"],
        radius=config["local_radius"],
        pooling=pooling,
        drop_path=config["drop_path_rate"],
    )


def _task(route: Route) -> Classification:
    return Classification([str(label) for label in range(len(route.weights["cls_head_finetune.8.bias"]))])


def _filled(kind: type[PointM2AE], route: Route) -> PointM2AE:
    model = _model(kind, route)
    _task(route).attach(model)
    model.load_state_dict(as_tensors(route.weights))
    return model.eval()


def _loaded(kind: type[PointM2AE], golden: GoldenSet, route: Route) -> PointM2AE:
    """The same model by way of a pre-training file, made for the purpose, and the loader that users meet."""
    content = {  # of what the loader must leave aside, the names alone
        key: torch.zeros(1) if key.startswith(kind.layout.ignored) else torch.from_numpy(fill(key, shape))
        for key, shape in golden.json("keys.json").items()
    }
    model = _model(kind, route)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pth"
        torch.save({"base_model": content}, path)
        checkpoint = read_checkpoint(str(path), kind.name, kind.layout)
        sizes = infer_sizes(checkpoint, {})
        assert sizes == {"widths": model.widths, "depths": model.depths, "heads": model.heads}, f"inferred {sizes}"
        fresh = load_backbone(model, checkpoint)
    _task(route).attach(model)
    complete(model, fresh, route)
    return model.eval()


@torch.no_grad()
def _outputs(model: PointM2AE, points: Tensor) -> dict[str, Tensor]:
    """Everything that is recorded, under the names of both families of sets."""
    tokens = model.encode(points, layers=range(model.depth))
    outputs = {"norm": tokens.features, "feature": model.pool(tokens), "logits": model(points)}
    x, first = points, 0
    for s, (stage, depth) in enumerate(zip(model.grouped(points), model.depths, strict=True)):
        embedded = model.embedded(s, stage, x)
        layers = [tokens.layers[first + index] for index in range(depth)]
        x, first = layers[-1], first + depth
        for mark in (".", "_"):
            outputs |= {f"fps_idx{mark}{s}": stage.center_index, f"knn_idx{mark}{s}": stage.neighbor_index}
        outputs |= {
            f"mask_count_{s}": (~near(stage.centers, model.radius[s])).sum(dim=2),
            f"center_{s}_mean": stage.centers.mean(dim=1),
            f"token_embed{s}.mean": embedded.mean(dim=1),
            f"token_embed{s}.tok0": embedded[:, 0],
            f"token_embed_{s}_mean": embedded.mean(dim=1),
            f"token_embed_{s}_first4": embedded[:, :FIRST],
            f"block_mean_{s}": torch.stack([layer.mean(dim=1) for layer in layers]),
            f"out_{s}_first4": x[:, :FIRST],
            f"out_{s}_sample0": x[0],
        }
        for index, layer in enumerate(layers):
            outputs |= {f"block{s}.{index}.mean": layer.mean(dim=1), f"block{s}.{index}.tok0": layer[:, 0]}
    return outputs


@torch.no_grad()
def _feature_of_pre_training(route: Route, points: Tensor) -> Tensor:
    """Mean + maximum over the last tokens behind their norm, with the leaving out and padding of the whole batch."""
    model = _model(PointM2AE, route).eval()
    weights = as_tensors(route.weights)
    load = model.h_encoder.load_state_dict(
        {
            name.removeprefix("h_encoder."): tensor
            for name, tensor in weights.items()
            if name.startswith("h_encoder.") and "encoder_norms" not in name
        }
    )
    assert not load.missing_keys
    stages = model.grouped(points)
    kept = _referred_to(model, [stage.neighbor_index for stage in stages])
    x = points
    for s, (stage, keep) in enumerate(zip(stages, kept, strict=True)):
        tokens = model.embedded(s, stage, x)
        longest = int(keep.sum(dim=1).max())
        inside = torch.arange(longest) < keep.sum(dim=1, keepdim=True)
        packed, centers = tokens.new_zeros(len(x), longest, tokens.shape[2]), points.new_zeros(len(x), longest, 3)
        packed[inside], centers[inside] = tokens[keep], stage.centers[keep]
        level = Level(centers, torch.arange(longest))
        real = inside.unsqueeze(1) & inside.unsqueeze(2)
        attended = (near(centers, model.radius[s]) | real).unsqueeze(1)
        level.memo(("attended", model.radius[s]), lambda attended=attended: attended)  # type: ignore[misc]
        with published(Geometry([level] * (s + 1))):
            packed = model.h_encoder.encoder_blocks[s](packed, model.h_encoder.encoder_pos_embeds[s](centers))[0]
        tokens[keep] = packed[inside]
        x = tokens
    last = f"h_encoder.encoder_norms.{len(stages) - 1}"
    x = torch.nn.functional.layer_norm(x, x.shape[2:], weights[f"{last}.weight"], weights[f"{last}.bias"])
    return x.mean(dim=1) + x.amax(dim=1)


def _referred_to(model: PointM2AE, neighbors: list[Tensor]) -> list[Tensor]:
    """bool (B, G) by stage: the tokens of which some kept token of the next stage is made, all of the last stage.

    Where any token of the next stage is left out, the released code keeps the first token of the first cloud as well.
    """
    batch = len(neighbors[0])
    kept = [torch.ones(batch, model.groups[-1], dtype=torch.bool)]
    for count, index in zip(model.groups[-2::-1], neighbors[:0:-1], strict=True):
        keep = torch.zeros(batch, count, dtype=torch.bool)
        for cloud in range(batch):
            keep[cloud, index[cloud][kept[0][cloud]].flatten()] = True
        if not kept[0].all():
            keep[0, 0] = True
        kept.insert(0, keep)
    return kept


point_m2ae = partial(run, PointM2AE)
i2p_mae = partial(run, I2PMAE)
