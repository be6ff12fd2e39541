"""MoST as in the released code: formula, what trains, coupling of clouds, and what recipes may ask for."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.adapters.merge import merge
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Level, Site, published
from geopeft_cli.errors import GeometryError, MergeError, UsageError
from geopeft_cli.geometry.smoothing import laplacian
from geopeft_cli.methods.most import MoST
from geopeft_cli.methods.most_released import AdaBias, AdaBiasMode, Init, KRectify, PointMonarch, PointMonarchAttention
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.methods import LINEAR_ONLY, RELEASED_ONLY, MoSTSettings
from geopeft_cli.recipe.problems import RecipeError
from methods.scene import BYPASS, CENTERS, EPS, NEIGHBORS, TOKENS, geometry, tokens

WIDTH, BLOCKS = 16, 4
MODES: tuple[AdaBiasMode, ...] = ("batch", "token", "off")


def branch(mode: AdaBiasMode = "token", init: Init = "kaiming_zero", moved: bool = True) -> PointMonarch:
    torch.manual_seed(0)
    made = PointMonarch(WIDTH, BLOCKS, NEIGHBORS, EPS, AdaBias(mode), init)
    if moved:
        for parameter in made.parameters():
            nn.init.normal_(parameter)
    return made


def tiny(adabias: AdaBiasMode = "token", init: Init = "kaiming_zero", moved: bool = False) -> PointMAE:
    torch.manual_seed(0)
    backbone = PointMAE(width=32, depth=2, heads=2, groups=8, group_size=8, drop_path=0.0).requires_grad_(False)
    MoST(blocks=4, variant="released", adabias=adabias, init=init).attach(backbone)
    if moved:
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
    return backbone


def clouds(count: int) -> Tensor:
    return torch.randn(count, 64, 3, generator=torch.Generator().manual_seed(1))


def reference(made: PointMonarch, x: Tensor, a: Tensor, centers: Tensor) -> Tensor:
    """PM(x; a) in float64, token by token, for a sequence that begins with tokens without a center."""
    x, a, centers = x.double(), a.double(), centers.double()
    c = torch.zeros_like(a)
    if made.adabias.mode != "off":
        c[:, BYPASS:] += a[:, BYPASS:].mean(1, keepdim=True)
    if made.adabias.mode == "batch":
        c[:, BYPASS:] += a[:, BYPASS:].mean(0, keepdim=True)

    def rectified(f: Tensor, g: Tensor) -> Tensor:
        y = f.clone()
        for cloud, xyz in enumerate(centers):
            for i, here in enumerate(xyz):
                distance = (xyz - here).norm(dim=1)
                nearest = [j for j in distance.argsort().tolist() if j != i][:NEIGHBORS]
                w = 1 / (distance[nearest] + EPS)
                own = f[cloud, BYPASS + i]
                s = sum(w_j * (f[cloud, BYPASS + j] - own) for w_j, j in zip(w / w.sum(), nearest, strict=True))
                assert isinstance(s, Tensor)
                y[cloud, BYPASS + i] += g.double() * s / (s.square().mean() + 1e-6).sqrt()
        return y + c

    assert made.monarch_linear.bias is not None
    hidden = rectified(x, made.spatial_smooth_in.knorm.weight) @ made.monarch_linear.dense().mT
    return a + rectified(hidden + made.monarch_linear.bias, made.spatial_smooth_out.knorm.weight)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_formula(mode: AdaBiasMode) -> None:
    made, x, a = branch(mode), tokens(WIDTH, 3, seed=1), tokens(WIDTH, 3, seed=2)
    [level] = geometry(batch=3).levels
    torch.testing.assert_close(made(x, a, level).double(), reference(made, x, a, level.centers), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_without_a_center_get_the_monarch_layer_alone() -> None:
    made, x, a = branch("batch"), tokens(WIDTH, seed=1), tokens(WIDTH, seed=2)
    y = made(x, a, geometry().levels[0])[:, :BYPASS]
    linear = made.monarch_linear
    assert linear.bias is not None
    torch.testing.assert_close(y, a[:, :BYPASS] + linear(x[:, :BYPASS]) + linear.bias)


@torch.no_grad()
def test_a_constant_field_is_smooth_already() -> None:
    [level] = geometry().levels
    rectify = KRectify(WIDTH)
    nn.init.ones_(rectify.knorm.weight)
    constant = 10 * tokens(WIDTH)[:, :1].repeat(1, TOKENS, 1)
    result = rectify(constant, laplacian(level.centers, level.slots, NEIGHBORS, EPS), None)
    torch.testing.assert_close(result, constant, atol=1e-5, rtol=0)


@pytest.mark.parametrize("places", [[3, -1, 0, 2, 1, -1], [2, 0, 1, 3, -1, 3, 2, 1, 0]], ids=["any order", "twice"])
@torch.no_grad()
def test_any_order_and_number_of_tokens(places: list[int]) -> None:
    centers = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3))
    stream, a_stream = tokens(WIDTH, seed=1)[:, :4], tokens(WIDTH, seed=2)[:, :4]
    made = branch("token")
    plain = made(stream, a_stream, Level(centers, torch.arange(4)))
    slots = torch.tensor(places)
    ordered = [torch.where(slots[:, None] < 0, 7.0, s[:, slots.clamp(min=0)]) for s in (stream, a_stream)]
    for given in (slots, slots.expand(2, -1)):
        result = made(*ordered, Level(centers, given))
        torch.testing.assert_close(result[:, slots >= 0], plain[:, slots[slots >= 0]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_level_without_centers_in_the_sequence_and_one_with_a_single_center() -> None:
    made, x, a = branch("token"), tokens(WIDTH, seed=1)[:, :3], tokens(WIDTH, seed=2)[:, :3]
    linear = made.monarch_linear
    assert linear.bias is not None
    plain = a + linear(x) + linear.bias
    torch.testing.assert_close(made(x, a, Level(torch.randn(2, 5, 3), torch.full((3,), -1))), plain)
    alone = branch("off")(x, a, Level(torch.randn(2, 1, 3), torch.tensor([-1, 0, -1])))
    torch.testing.assert_close(alone, plain)


def test_the_laplacian_has_rows_of_zero_sum() -> None:
    [level] = geometry().levels
    rows = laplacian(level.centers, level.slots, NEIGHBORS, EPS)
    torch.testing.assert_close(rows.sum(-1), torch.zeros(2, TOKENS), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.diagonal(dim1=1, dim2=2)[:, BYPASS:], -torch.ones(2, CENTERS))
    assert not rows[:, :BYPASS].any()
    assert not rows[:, :, :BYPASS].any()


def test_layers_of_a_forward_pass_share_the_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    from geopeft_cli.methods import most_released

    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return laplacian(*arguments)

    monkeypatch.setattr(most_released, "laplacian", counted)
    backbone = tiny().eval()
    for passes in (1, 2):
        backbone.encode(clouds(2))
        assert len(calls) == passes


def test_names_of_a_block_are_the_released_ones() -> None:
    added = {
        name.removeprefix("blocks.blocks.0.attn.point_monarch.")
        for name, parameter in tiny().named_parameters()
        if parameter.requires_grad and name.startswith("blocks.blocks.0.")
    }
    monarch = {f"monarch_linear.{name}" for name in ("blkdiag1", "blkdiag2", "bias")}
    assert added == monarch | {f"spatial_smooth_{side}.knorm.weight" for side in ("in", "out")}


@pytest.mark.parametrize(("init", "trains"), [("kaiming_zero", True), ("zero_zero", False)])
def test_both_factors_train_unless_both_start_at_zero(init: Init, trains: bool) -> None:
    backbone = tiny(init=init).train()
    layers = [m.point_monarch for m in backbone.modules() if isinstance(m, PointMonarchAttention)]
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    factors: list[list[float]] = []
    for _ in range(4):
        optimizer.zero_grad()
        features = backbone.encode(clouds(3)).features
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        gradients = [getattr(layers[0].monarch_linear, name).grad for name in ("blkdiag1", "blkdiag2")]
        factors.append([float(gradient.norm()) for gradient in gradients])
        optimizer.step()
    if not trains:
        assert factors == [[0.0, 0.0]] * 4
        assert not layers[0].monarch_linear.blkdiag1.any()  # type: ignore[operator]
    else:
        assert factors[0][0] == 0.0
        assert factors[0][1] > 0
        assert all(norm > 0 for later in factors[1:] for norm in later)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_fresh_branch_adds_the_correction_and_nothing_else(mode: AdaBiasMode) -> None:
    made, x, a = branch(mode, moved=False), tokens(WIDTH, seed=1), tokens(WIDTH, seed=2)
    [level] = geometry().levels
    correction = made.adabias(a, level.slots)
    assert torch.equal(made(x, a, level), a if correction is None else a + correction)
    assert (correction is None) == (mode == "off") == MoST(variant="released", adabias=mode).is_identity_at_start
    assert MoST(adabias=mode).is_identity_at_start


@pytest.mark.parametrize(("mode", "depends"), [("token", False), ("off", False), ("batch", True)])
@torch.no_grad()
def test_only_the_published_correction_depends_on_the_batch(mode: AdaBiasMode, depends: bool) -> None:
    backbone, points = tiny(mode, moved=True).eval(), clouds(4)
    together = backbone.encode(points).features
    alone = torch.cat([backbone.encode(points[[one]]).features for one in range(4)])
    difference = float((together - alone).abs().max())
    assert difference > 1e-2 if depends else difference < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_with_the_published_correction_warns_once(
    mode: AdaBiasMode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="geopeft"):
        backbone = tiny(mode).train()
        assert not caplog.messages
        backbone.eval()
        backbone.train().eval()
    assert len(caplog.messages) == (1 if mode == "batch" else 0)
    assert all("depends on the other clouds of its batch" in message for message in caplog.messages)


def test_merging_is_refused_with_the_reason() -> None:
    with pytest.raises(MergeError, match=r"blocks\.0\.attn: .* cannot be merged .* is not linear") as caught:
        merge(tiny(), "auto", [clouds(2)])
    assert "onnx" in str(caught.value.hint)


def test_without_geometry_or_with_another_number_of_tokens_the_attention_is_named() -> None:
    layer = PointMonarchAttention(nn.Identity(), branch(), 0, "some.attn")
    with pytest.raises(GeometryError, match=r"some\.attn needs the centers of its tokens"):
        layer(tokens(WIDTH))
    with published(geometry()), pytest.raises(GeometryError, match=rf"some\.attn got tokens .* describes {TOKENS}"):
        layer(torch.zeros(2, TOKENS + 1, WIDTH))


def test_a_backbone_without_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def dense_only(self: PointMAE) -> list[Site]:
        return [site for site in original(self) if site.role != "attention"]

    original = PointMAE.sites
    monkeypatch.setattr(PointMAE, "sites", dense_only)
    with pytest.raises(UsageError, match="has no attention over tokens with centers"):
        tiny()


def test_more_blocks_than_channels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"method\.blocks: 33 blocks do not fit"):
        MoST(blocks=33, variant="released").attach(PointMAE(width=32, depth=1, heads=2, groups=8, group_size=8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["variant=released", "lam=0"], r"method\.lam is for variant: linear, not released"),
        (["variant=released", "sides=1"], r"method\.sides is for variant: linear"),
        (["variant=released", "bias=true"], r"method\.bias is for variant: linear"),
        (["variant=released", "dropout=0.1"], r"method\.dropout is for variant: linear"),
        (["variant=released", "targets=[all]"], r"method\.targets is for variant: linear"),
        (["variant=released", "factor={type: low_rank, rank: 2}"], r"method\.factor is for variant: linear"),
        (["variant=released", "lam_schedule={to: 0}"], r"method\.lam_schedule is for variant: linear"),
        (["adabias=off"], r"method\.adabias is for variant: released, not linear"),
        (["init=zero_zero"], r"method\.init is for variant: released, not linear"),
        (["generator_graph=released"], r"method\.generator_graph is for variant: released, not linear"),
        (["variant=release"], r"method\.variant must be one of linear, released"),
        (["variant=released", "adabias=true"], r"method\.adabias must be one of batch, token, off, is true"),
    ],
)
def test_keys_of_the_other_variant_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("quickstart", [f"method.{change}" for change in given])


def test_recipes_reach_the_released_form() -> None:
    changes = ("variant=released", "blocks=4", "neighbors=3", "eps=0.1", "adabias=off", "init=zero_zero")
    method = load_recipe("quickstart", [f"method.{change}" for change in changes]).method
    assert isinstance(method, MoSTSettings)
    assert method.adabias == "off"  # which YAML reads as false
    made = MoST(**method.model_dump(exclude={"name", "tokens"}))
    backbone = PointMAE(width=32, depth=1, heads=2, groups=8, group_size=8)
    made.attach(backbone)
    [layer] = [module for module in backbone.modules() if isinstance(module, PointMonarch)]
    assert (layer.neighbors, layer.eps, layer.adabias.mode) == (3, 0.1, "off")
    assert layer.monarch_linear.blocks == 4
    assert not layer.monarch_linear.blkdiag1.any()  # type: ignore[operator]


def test_every_key_of_a_variant_is_a_setting() -> None:
    shared = {"name", "tokens", "variant", "blocks", "neighbors", "eps", "graph"}
    assert {*LINEAR_ONLY, *RELEASED_ONLY} == set(MoSTSettings.model_fields) - shared
