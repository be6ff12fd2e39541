"""The whole released form of MoST: PointGPT with a branch on every attention, those of the generator included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.contracts import WHOLE_ROLES, official_name
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.methods.most import MoST
from geopeft_cli.methods.most_released import PointMonarchAttention
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.tasks.fusion import Fusion
from parity.fill import Array
from parity.golden_set import GoldenSet
from parity.subjects import Output

FILE, WITHOUT = "io.safetensors", "logits_without_branch"
# Beside what the layout of PointGPT says: their names and ours.
RENAMED = ((".point_monarch.", ".attn.point_monarch."), ("blocks.cls_token_norm.", "fusion.norm."))


@torch.no_grad()
def run(golden: GoldenSet) -> Iterator[Output]:
    (name,) = golden.meta["inputs"]
    points = torch.from_numpy(golden.input(name))
    model = _model(golden.config)
    (plain,) = golden.routes()
    _fill(model, plain.weights)
    yield from (Output(FILE, *pair) for pair in _inside(golden, model, points).items())
    logits = [output for output in golden.stored[FILE] if output.startswith("logits_")]
    rules = {output: golden.rule(output) or {} for output in logits if output != WITHOUT}
    for override in sorted({rule.get("override", "") for rule in rules.values()}):
        if override:
            (route,) = golden.routes(override, plain.weights)
            _fill(model, route.weights)
        for output, rule in rules.items():
            if rule.get("override", "") == override:
                yield Output(FILE, output, model(points[:1] if rule["run"] == "alone" else points))
    if WITHOUT in logits:
        _remove_branches(model)
        yield Output(FILE, WITHOUT, model(points))


def _remove_branches(model: PointGPT) -> None:
    for site in model.sites():
        if site.role in WHOLE_ROLES:
            branch = site.module
            assert isinstance(branch, PointMonarchAttention)
            site.replace(branch.base)


def _model(config: Mapping[str, Any]) -> PointGPT:
    with torch.device("meta"):
        model = PointGPT(
            width=config["trans_dim"],
            depth=config["depth"],
            heads=config["num_heads"],
            groups=config["num_group"],
            group_size=config["group_size"],
            encoder_width=256,
            generator_channels=3 * config["group_size"],
        )
        MoST(blocks=config["monarch_nblocks"], variant="released", adabias="batch", generator_graph="released").attach(
            model
        )
        fusion = {"layers": config["fusion_layer"], "affine": True}
        Classification([str(label) for label in range(config["cls_dim"])], fusion=fusion).attach(model)
    return model.eval()


def _fill(model: PointGPT, weights: Mapping[str, Array]) -> None:
    """All tensors but ``ln``, which no output depends on."""
    own: dict[str, Tensor] = {}
    for name, array in weights.items():
        if ".ln." in name:
            continue
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        own[model.layout.own_name(name)] = torch.from_numpy(array)
    names = {official_name(name): name for name in model.state_dict()}
    assert names.keys() == own.keys(), f"not in both: {sorted(names.keys() ^ own.keys())}"
    model.load_state_dict({names[name]: tensor for name, tensor in own.items()}, assign=True)


def _inside(golden: GoldenSet, model: PointGPT, points: Tensor) -> dict[str, Tensor]:
    """What was recorded of one forward pass of the batch."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda _module, _inputs, output: seen.update({name: output.mean(dim=1)}))

    first, generator = model.blocks.layers[0].attn, model.generator_blocks
    hooks = [note("layer00.a.mean", first.base), note("layer00.r.mean", first)]
    hooks += [note(f"generator.layer{index:02}.mean", layer) for index, layer in enumerate(generator.layers)]
    neighborhoods, centers = model.patches(points)
    tokens = model.encode(points, layers=range(model.depth))
    fusion = model.get_submodule("fusion")
    assert isinstance(fusion, Fusion)
    spatial = [tokens.spatial(tokens.layers[index]) for index in fusion.layers]
    summed = sum(2**i * (layer.amax(dim=1) + layer.mean(dim=1)) for i, layer in enumerate(spatial))
    assert isinstance(summed, Tensor)
    fused = fusion(tokens)
    feature = model.pool(tokens, fused)
    normalized = model.blocks.ln_f(tokens.layers[model.depth - 1])
    loss = model.reconstruction_loss(normalized, neighborhoods, centers)
    for hook in hooks:
        hook.remove()
    index, squared = nearest_neighbors(centers, centers, golden.stored[FILE]["knn_dist"].shape[-1], exclude_self=True)
    return seen | {
        "center": centers,
        "encoder.mean": model.encoder(neighborhoods).mean(dim=1),
        "knn_dist": squared.sqrt(),
        "knn_idx": (index + centers.shape[1] * torch.arange(len(centers))[:, None, None]).flatten(),
        **{f"extractor.layer{place:02}.mean": layer.mean(dim=1) for place, layer in tokens.layers.items()},
        "fused_pre_norm": summed,
        "fused": fused,
        "head_in": feature,
        "logits": model.get_submodule("cls_head_finetune")(feature),
        "chamfer_l1_plus_l2": loss.view(1),
    }
