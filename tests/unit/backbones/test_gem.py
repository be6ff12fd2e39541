"""GEM: its formulas by plain loops, latents carried through a pass, every scene by itself, counts and names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.scenes import alone, network, scenes
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.backbones.sonata import DECODER, Sonata
from geopeft_cli.contracts import Foldable, Geometry, PackedLevel, official_parameters, official_state, published
from geopeft_cli.errors import UsageError
from geopeft_cli.methods.gem import GEM, ContextAdapter, GEMBlock, Latents, SpatialAdapter, carried_latents
from geopeft_cli.methods.lora import LoRA

SMALL: dict[str, Any] = {"rank": 6, "latents": 3}


def adapted(kind: str = "sonata", moved: bool = True, **settings: Any) -> SceneTransformer:
    """A network with GEM, whose last layers have left zero if ``moved``."""
    model = network(kind).requires_grad_(False)
    torch.manual_seed(2)
    GEM(**{**SMALL, **settings}).attach(model)
    if moved:
        for name, parameter in model.named_parameters():
            if ".gem." in f".{name}":
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", ["sonata", "sonata_decoder", "ptv3"])
@torch.no_grad()
def test_a_fresh_gem_changes_nothing(kind: str) -> None:
    assert torch.equal(adapted(kind, moved=False)(scenes()), network(kind)(scenes()))


@pytest.mark.parametrize(
    "settings", [{}, {"spatial": False}, {"context": False}, {"share": "stage"}, {"share": "none"}]
)
@torch.no_grad()
def test_scenes_stay_apart_and_passes_start_afresh(settings: dict[str, Any]) -> None:
    model = adapted("sonata_decoder", **settings)
    together = model(scenes())
    assert float((together - network("sonata_decoder")(scenes())).abs().max()) > 0.01
    assert torch.equal(model(scenes()), together)
    parts = torch.cat([model(alone(scenes(), index)) for index in range(3)])
    torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-5)


def attended(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Softmax attention, number by number."""
    rows = []
    for query in queries:
        weights = torch.stack([(query * key).sum() * scale for key in keys]).exp()
        rows.append(
            sum((weight * value for weight, value in zip(weights, values, strict=True)), 0 * query) / weights.sum()
        )
    return torch.stack(rows)


@pytest.mark.parametrize("tie_kv", [True, False])
@torch.no_grad()
def test_the_context_adapter_is_its_formula(tie_kv: bool) -> None:
    torch.manual_seed(0)
    latents = Latents(3, 4, stages=None)
    arguments: dict[str, Any] = {"level": 0, "group": -1, "own_latents": 0, "start": latents.start, "tie_kv": tie_kv}
    blocks = [ContextAdapter(7, 4, place=place, scale=0.4, bias=True, **arguments).double() for place in range(2)]
    for parameter in (p for block in (*blocks, latents) for p in block.parameters()):
        nn.init.normal_(parameter)
    h = torch.randn(9, 7, dtype=torch.float64)
    level = PackedLevel(torch.randn(9, 3), torch.tensor([0, 4, 9]))
    with published(Geometry([level])):
        found = [block(h) for block in blocks]
        again = blocks[0](h)
    assert torch.equal(again, found[0])
    for scene in (slice(0, 4), slice(4, 9)):
        carried = latents.latents.double()
        for block, y in zip(blocks, found, strict=True):
            q, k, v = (
                h[scene] @ block.get_submodule(n).weight.T for n in (("q", "kv", "kv") if tie_kv else ("q", "k", "v"))
            )
            context = attended(carried, k, v, 0.4)
            expected = attended(q, context, context, 0.4) @ block.up.weight.T + block.up.bias
            torch.testing.assert_close(y[scene], expected, rtol=1e-4, atol=1e-4)
            carried = carried + context
    assert sorted(carried_latents(level, -1)) == [0, 1]


@torch.no_grad()
def test_branches_stand_beside_position_encoding_and_attention() -> None:
    """The block by its definition, with the branches outside of the drop path."""
    model = adapted()
    block = model.get_submodule("enc.enc0.block0")
    assert isinstance(block, GEMBlock)
    base, gem = block.base, block.gem
    x = torch.randn(215, 8)
    with published(Geometry(list(model.levels(scenes())))):
        y = block(x)
        z = x + base.cpe(x) + gem["spatial"](x)
        h = base.norm1(z)
        z = z + base.attn(h) + gem["context"](h)
        torch.testing.assert_close(y, z + base.mlp(base.norm2(z)))
        spatial = gem["spatial"]
        hidden = spatial.conv(spatial.down(x))
        torch.testing.assert_close(spatial(x), F.relu(hidden) @ spatial.up.weight.T)


def test_everything_trains_from_the_second_step_on_and_the_base_stays() -> None:
    model = adapted(moved=False).train()
    before = {name: tensor.clone() for name, tensor in official_state(model).items()}
    trained = {name: p for name, p in official_parameters(model).items() if p.requires_grad}
    assert all(".gem." in f".{name}" for name in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(scenes()).square().mean().backward()
        optimizer.step()
    moved = {name for name, tensor in official_state(model).items() if not torch.equal(tensor, before[name])}
    # latents that are alike give the queries less of a gradient than a weight in float32 can show
    assert {name for name in trained if not name.endswith("context.q.weight")} <= moved <= trained.keys()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.values())


@pytest.mark.parametrize(
    ("share", "names"), [("global", ["gem.latents"]), ("stage", [f"gem.latents.{s}" for s in range(3)])]
)
def test_latents_are_shared(share: str, names: list[str]) -> None:
    state = official_state(adapted(share=share))
    assert [name for name in state if "latents" in name] == names
    assert all(state[name].shape == (3, 6) for name in names)


@torch.no_grad()
def test_how_far_latents_are_carried() -> None:
    levels = {}
    for share in ("global", "stage", "none"):
        model = adapted(share=share)
        found = model.levels(scenes())
        model.levels = lambda _, found=found: found  # type: ignore[method-assign]
        model(scenes())
        levels[share] = [sorted(carried_latents(found[0], group)) for group in range(-1, 8)]
    assert levels["global"] == [[0, 1, 2, 3, 4]] + [[]] * 8
    assert levels["stage"] == [[], [0, 1, 2], [0], [0], [], [], [], [], []]
    assert levels["none"] == [[]] * 4 + [[0]] * 5


def test_a_copy_has_latents_of_its_own() -> None:
    model = adapted()
    other = copy.deepcopy(model)
    nn.init.zeros_(other.get_parameter("gem.latents"))
    with torch.no_grad():
        before = model(scenes())
        assert torch.equal(model(scenes()), before)
        assert not torch.equal(other(scenes()), before)


def test_only_some_stages() -> None:
    names = {name.split(".gem.")[0] for name in official_state(adapted(stages=[0, 2])) if ".gem." in name}
    assert names == {"enc.enc0.block0", "enc.enc0.block1", "enc.enc0.block2", "enc.enc2.block0"}
    with pytest.raises(UsageError, match="sonata has no stage 3"):
        GEM(stages=[3]).attach(network())


@torch.no_grad()
def test_gem_and_lora_share_a_block() -> None:
    model = adapted()
    LoRA(targets=["all", "position"]).attach(model)
    wrapped = [site.name for site in model.sites() if isinstance(site.module, Foldable)]
    assert len(wrapped) == 5 * model.depth
    assert torch.equal(model(scenes()), adapted()(scenes()))


COUNTS = {
    "tied": ({}, 1_808_000),
    "untied": ({"tie_kv": False}, 2_036_864),
    "spatial": ({"context": False}, 1_121_280),
    "context": ({"spatial": False}, 686_592 + 4 * 32),
    "bias": ({"context_bias": True}, 1_815_152),
    "rank 1": ({"rank": 1}, 36_412),
    "a stage's own latents": ({"share": "stage"}, 1_808_000 + 4 * 4 * 32),
    "a block's own latents": ({"share": "none"}, 1_808_000 + 23 * 4 * 32),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_on_sonata(name: str) -> None:
    settings, count = COUNTS[name]
    with torch.device("meta"):
        model = Sonata(mask_token=False, **DECODER).requires_grad_(False)
        GEM(**settings).attach(model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_what_gem_cannot_adapt() -> None:
    with pytest.raises(UsageError, match=r"method\.voxel: sonata reads scenes"):
        GEM(voxel=0.1).attach(network())
    with pytest.raises(UsageError, match="adapts nothing"):
        GEM(spatial=False, context=False)


def test_it_cannot_be_merged_and_its_settings_rebuild_it() -> None:
    model, settings = adapted(), GEM(**SMALL, stages=[0]).settings()
    assert not any(isinstance(module, Foldable) for module in model.modules())
    assert GEMBlock.unfoldable
    assert GEM(**settings).settings() == settings
    assert isinstance(model.get_submodule("enc.enc1.block0.gem.spatial"), SpatialAdapter)
