"""GEM among the tokens of clouds: voxels of their centers, who reads whom, clouds kept apart, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.subject import clouds, tiny_backbone
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Backbone, Geometry, Level, official_state, published
from geopeft_cli.errors import GeometryError, UsageError
from geopeft_cli.exporting.program import trace
from geopeft_cli.geometry.clusters import clusters_of
from geopeft_cli.geometry.sparse_convolution import neighbor_map, submanifold_convolution
from geopeft_cli.geometry.voxels import voxel_keys
from geopeft_cli.methods.gem import GEM, ContextAdapter, Latents, SpatialAdapter, carried_latents
from geopeft_cli.methods.gem_tokens import GEMTokenBlock, TokenConvolution, token_neighbors
from geopeft_cli.tasks.classification import Classification

NETWORKS = ("point_mae", "recon", "point_gpt", "point_m2ae")


def level_of(centers: Tensor, leading: int = 1) -> Level:
    return Level(centers, torch.arange(-leading, centers.shape[1]).clamp(min=-1))


def adapted(name: str, sizes: dict[str, Any] | None = None, **settings: Any) -> Backbone:
    """A network with GEM, whose last layers have left zero."""
    torch.manual_seed(0)
    model = tiny_backbone(name, **(sizes or {})).requires_grad_(False)
    GEM(**{"rank": 5, "latents": 3, **settings}).attach(model)
    for key, parameter in model.named_parameters():
        if ".gem." in f".{key}":
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize(("kernel", "voxel"), [(3, 0.4), (5, 0.4), (3, None), (3, 100.0), (1, 0.4)])
@torch.no_grad()
def test_the_convolution_is_that_of_voxels_that_hold_the_mean_of_their_tokens(kernel: int, voxel: float | None) -> None:
    torch.manual_seed(0)
    centers = torch.rand(3, 20, 3, dtype=torch.float64) * 2 - 1
    x = torch.randn(3, 20, 4, dtype=torch.float64)
    layer = TokenConvolution(4, kernel, 0, voxel).double()
    nn.init.normal_(layer.weight)
    with published(Geometry([level_of(centers)])):
        found = layer(x)
    for cloud, rows, y in zip(centers, x, found, strict=True):
        edge = 3 / 20**0.5 if voxel is None else voxel
        places = ((cloud - cloud.amin(0)) / edge).floor().long()
        whole = clusters_of(voxel_keys(places, torch.tensor([0, 20])).keys)
        offsets = torch.tensor([0, len(whole.counts)])
        near = neighbor_map(places[whole.first], offsets, kernel)
        expected = whole.spread(submanifold_convolution(whole.mean(rows), layer.weight, None, near))
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    if voxel == 100.0:
        assert torch.equal(found, found[:, :1].expand_as(found))


def test_the_default_voxel_leaves_about_six_neighbors_on_a_surface() -> None:
    points = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    near = token_neighbors(points / points.norm(dim=-1, keepdim=True), 3, None)
    assert 4 < float(near.occupied.sum(dim=-1).double().mean()) < 12
    assert near.occupied[..., 13].all()
    assert torch.equal(near.share.sum(dim=-1), torch.ones(1, 64))


def context_adapter(width: int = 6) -> ContextAdapter:
    latents = Latents(2, 3, None)
    adapter = ContextAdapter(
        width, 3, level=0, group=-1, place=0, own_latents=2, start=latents.start, tie_kv=True, scale=0.5, bias=False
    )
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    return adapter


@torch.no_grad()
def test_tokens_without_a_center_read_the_latents_and_are_not_read() -> None:
    torch.manual_seed(1)
    adapter, h, level = context_adapter(), torch.randn(2, 9, 6), level_of(torch.rand(2, 8, 3))
    other = h.clone()
    other[:, 0] += 1
    with published(Geometry([level])):
        before, after = adapter(h), adapter(other)
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert not torch.equal(before[:, 0], after[:, 0])
    for cloud, y in zip(h, before, strict=True):
        q, kv = adapter.q(cloud), adapter.kv(cloud[1:])
        context = (adapter.latents @ kv.T * 0.5).softmax(dim=-1) @ kv
        torch.testing.assert_close(y, adapter.up((q @ context.T * 0.5).softmax(dim=-1) @ context), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_block_by_its_definition() -> None:
    model = adapted("point_mae")
    block = model.get_submodule("blocks.blocks.0")
    assert isinstance(block, GEMTokenBlock)
    base, gem, x = block.base, block.gem, torch.randn(2, 9, model.width)
    with published(Geometry([level_of(clouds(2)[:, :8])])):
        y = block(x)
        z = torch.cat([x[:, :1], x[:, 1:] + gem["spatial"](x[:, 1:])], dim=1)
        h = base.norm1(z)
        z = z + base.attn(h) + gem["context"](h)
        torch.testing.assert_close(y, z + base.mlp(base.norm2(z)))
        with pytest.raises(GeometryError, match="GEM got 7 tokens"):
            block(x[:, :7])


@torch.no_grad()
def test_tokens_in_another_order_give_the_same_tokens() -> None:
    torch.manual_seed(2)
    x, centers, order = torch.randn(2, 16, 6), clouds(2)[:, :16], torch.randperm(16)
    spatial = SpatialAdapter(6, 3, TokenConvolution(3, 3, 0, 0.5), "gelu")
    for parameter in spatial.parameters():
        nn.init.normal_(parameter)
    for branch in (spatial, context_adapter()):
        with published(Geometry([level_of(centers, 0)])):
            y = branch(x)
        with published(Geometry([level_of(centers[:, order], 0)])):
            torch.testing.assert_close(branch(x[:, order]), y[:, order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_clouds_stay_apart_and_passes_start_afresh(name: str) -> None:
    model, points = adapted(name), clouds(3)
    together = model.encode(points).features
    assert torch.equal(model.encode(points).features, together)
    assert float((together - tiny_and_plain(name, points)).abs().max()) > 0.01
    parts = torch.cat([model.encode(points[index : index + 1]).features for index in range(3)])
    torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-5)


def tiny_and_plain(name: str, points: Tensor) -> Tensor:
    torch.manual_seed(0)
    return tiny_backbone(name).eval().encode(points).features


@torch.no_grad()
def test_scales_of_point_m2ae_have_a_grid_each_and_share_the_latents() -> None:
    seen = []
    for share in ("global", "stage"):
        model = adapted("point_m2ae", share=share)
        block = model.get_submodule("h_encoder.encoder_blocks.2.blocks.1")
        block.register_forward_hook(lambda module, x, y: seen.append(current(module)))
        model.encode(clouds(2))
    assert seen == [(3, [0, 1, 2, 3, 4], []), (3, [], [0, 1])]  # blocks 1 + 2 + 2, all by one set, or stage by stage
    state = official_state(adapted("point_m2ae", stages=[1, 2], share="stage"))
    assert [key for key in state if key.startswith("gem.")] == ["gem.latents.1", "gem.latents.2"]
    assert not any(".gem." in key for key in state if key.startswith("h_encoder.encoder_blocks.0."))


def current(module: nn.Module) -> tuple[int, list[int], list[int]]:
    from geopeft_cli.contracts import current_geometry

    levels = current_geometry(2, "a test").levels
    grids = [level.memo(("token neighbors", 3, None), lambda: None) for level in levels]
    return (
        sum(grid is not None for grid in grids),
        sorted(carried_latents(levels[0], -1)),
        sorted(carried_latents(levels[0], 2)),
    )


@pytest.mark.parametrize(
    ("settings", "count"),
    [({"rank": 13}, 354_328), ({}, 1_069_184), ({"context": False}, 626_688), ({"spatial": False}, 442_496)],
)
def test_counts_on_a_plain_transformer(settings: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = PointMAE().requires_grad_(False)
        GEM(**settings).attach(model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("name", ["mamba3d", "point_mamba"])
def test_networks_without_transformer_blocks_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"gem is for transformer blocks .*, and {name} has none"):
        GEM().attach(tiny_backbone(name))


def test_a_plain_transformer_has_one_stage() -> None:
    with pytest.raises(UsageError, match=r"method\.stages: point_mae has no stage 1"):
        GEM(stages=[0, 1]).attach(tiny_backbone("point_mae"))


def test_a_recorded_program_is_the_model() -> None:
    model = adapted("point_mae", {"depth": 1, "groups": 6})
    Classification(["chair", "lamp"]).attach(model)
    model.requires_grad_(False).eval()
    program = trace(model, clouds(2)[:, :32]).module()
    for given in (clouds(1), clouds(4)[:, :24]):
        torch.testing.assert_close(program(given), model(given), atol=1e-5, rtol=0)
