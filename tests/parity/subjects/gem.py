"""GEM on Sonata: stages, logits and the latents after the last block, in all variants of the adapters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.contracts import Scenes, official_state
from geopeft_cli.methods.gem import GEM, carried_latents
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.subjects.scenes import FILE, RULES, constructed, couple, forms, patterns_of, prefixes, recorded, scenes_of
from parity.tensors import as_tensors

GLOBAL = -1  # the group of latents that all blocks carry on


def run(golden: GoldenSet) -> Iterator[Output]:
    for route in golden.routes():
        patterns = patterns_of(golden, route)
        model = adapted(golden, route)
        for prefix in prefixes(golden):
            scenes = scenes_of(golden, prefix)
            for rule, mark in RULES.items():
                start = f"{prefix}{mark}{route.name}."
                stored = recorded(golden, start, patterns)
                if stored:
                    couple(model, rule)
                    for name, value in _outputs(model, scenes).items():
                        yield from (
                            Output(FILE, form, tensor)
                            for form, tensor in forms(golden, f"{start}{name}", value)
                            if form in stored
                        )


def adapted(golden: GoldenSet, route: Route) -> SceneTransformer:
    """The variant of the method that the names of the weights tell, filled with them."""
    model = constructed(Sonata, route, golden.config)
    names = {name.partition(".gem.")[2] for name in route.weights if ".gem." in name}
    gem = GEM(
        rank=golden.meta.get("rank", golden.config.get("rank")),
        latents=golden.meta.get("latents", golden.config.get("latents")),
        spatial="spatial.up.weight" in names,
        context="context.up.weight" in names,
        tie_kv="context.k.weight" not in names,
    )
    gem.attach(model)
    VoxelSegmentation([str(index) for index in range(len(route.weights["seg_head.bias"]))]).attach(model)
    weights, state = as_tensors(route.weights), official_state(model)
    assert state.keys() == weights.keys(), f"not in both: {sorted(state.keys() ^ weights.keys())}"
    with torch.no_grad():
        for name, tensor in weights.items():
            assert state[name].shape == tensor.shape, name
            state[name].copy_(tensor)
    return model.eval()


@torch.no_grad()
def _outputs(model: SceneTransformer, scenes: Scenes) -> dict[str, Tensor]:
    levels = model.levels(scenes)
    model.levels = lambda _: levels  # type: ignore[method-assign]  # to look at what the pass leaves there
    tokens = model.encode(scenes, layers=range(model.depth))
    carried = dict(carried_latents(levels[0], GLOBAL))
    outputs = {"logits": model(scenes)}
    del model.levels
    if carried:
        outputs["latents_final"] = carried[max(carried)]
    first = 0
    for stage, depth in enumerate(model.depths):
        first += depth
        outputs[f"stage{stage}"] = tokens.layers[first - 1]
    return outputs
