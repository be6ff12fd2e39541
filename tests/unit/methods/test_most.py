"""The MoST layer: its start, its formula on both sides, its gradients, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Geometry, Level, published
from geopeft_cli.errors import GeometryError, UsageError
from geopeft_cli.methods import rectify
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.methods.most import Monarch, MoST
from geopeft_cli.methods.rectify import Rectify
from methods.scene import BYPASS, CENTERS, NARROW, TOKENS, WIDE, geometry, kernel, monarch_layer, tokens

BOTH = pytest.mark.parametrize("sizes", [WIDE, NARROW], ids=["wide", "narrow"])
SIDES = pytest.mark.parametrize("sides", [0, 1, 2])


@BOTH
@SIDES
@pytest.mark.parametrize("bias", [False, True])
def test_step_0_changes_no_bit(sizes: tuple[int, int], sides: int, bias: bool) -> None:
    layer, x = monarch_layer(sizes, sides=sides, bias=bias, fresh=True), tokens(sizes[0])
    with published(geometry()):
        assert torch.equal(layer(x), layer.base(x))


@BOTH
@SIDES
def test_second_factor_learns_at_once_and_the_first_from_the_next_step(sizes: tuple[int, int], sides: int) -> None:
    layer, x = monarch_layer(sizes, sides=sides, fresh=True), tokens(sizes[0])
    optimizer = torch.optim.SGD(layer.most.parameters(), lr=0.1)
    norms = []
    for _ in range(3):
        optimizer.zero_grad()
        with published(geometry()):
            layer(x).square().mean().backward()
        assert layer.most.blkdiag1.grad is not None
        assert layer.most.blkdiag2.grad is not None
        norms.append([float(g.norm()) for g in (layer.most.blkdiag1.grad, layer.most.blkdiag2.grad)])
        optimizer.step()
    assert norms[0][0] == 0.0
    assert norms[0][1] > 0
    assert all(norm > 0 for later in norms[1:] for norm in later)


@BOTH
@SIDES
@pytest.mark.parametrize("base_bias", [False, True])
def test_factors_and_bias_learn_where_nothing_before_them_does(
    sizes: tuple[int, int], sides: int, base_bias: bool
) -> None:
    layer = monarch_layer(sizes, sides=sides, bias=True, base_bias=base_bias)
    layer.base.requires_grad_(False)
    x = tokens(sizes[0])
    for given in (x, x.clone().requires_grad_()):
        with published(geometry()):
            gradients = torch.autograd.grad(layer(given).square().sum(), list(layer.most.parameters()))
        assert all(gradient.abs().max() > 0 for gradient in gradients)


@BOTH
@SIDES
def test_formula(sizes: tuple[int, int], sides: int) -> None:
    layer, x, where = monarch_layer(sizes, sides=sides, bias=True), tokens(sizes[0]), geometry()
    power = torch.linalg.matrix_power(kernel(where), sides)
    dense = layer.most.dense()
    assert layer.most.bias is not None
    expected = layer.base(x) + power @ x.double() @ dense.mT + layer.most.bias
    with published(where):
        torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


@BOTH
def test_rectifying_before_behind_and_on_both_sides_is_one_operator(sizes: tuple[int, int]) -> None:
    layer, x, where = monarch_layer(sizes), tokens(sizes[0]), geometry()
    rectifiers = {sides: Rectify(4, 0.05, 0.5, sides) for sides in (1, 2)}

    def k(x: Tensor, sides: int) -> Tensor:
        return rectifiers[sides](x, where.levels[0], "test")

    with torch.no_grad():
        forms = [k(layer.most(k(x, 1)), 1), layer.most(k(x, 2)), k(layer.most(x), 2), layer.most(k(k(x, 1), 1))]
        with published(where):
            forms.append(layer.update(x))
    for form in forms[1:]:
        torch.testing.assert_close(form, forms[0], atol=1e-5, rtol=1e-5)


@BOTH
def test_smooths_where_the_tensor_is_narrower(sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    original = Rectify.__call__

    def spy(self: Rectify, x: Tensor, level: Level, reader: str) -> Tensor:
        widths.append(x.shape[-1])
        return original(self, x, level, reader)

    monkeypatch.setattr(Rectify, "__call__", spy)
    with published(geometry()):
        monarch_layer(sizes)(tokens(sizes[0]))
    assert widths == [min(sizes)]


@BOTH
@pytest.mark.parametrize(("lam", "sides"), [(0.0, 2), (0.5, 0)])
def test_without_lambda_or_sides_it_is_plain_monarch(
    sizes: tuple[int, int], lam: float, sides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("geometry was computed")

    monkeypatch.setattr(rectify, "rectifier", never)
    layer, x = monarch_layer(sizes, lam=lam, sides=sides), tokens(sizes[0])
    assert torch.equal(layer(x), layer.base(x) + layer.most(x))  # no geometry is published


def test_the_method_monarch_is_most_without_geometry() -> None:
    torch.manual_seed(0)
    points = torch.randn(2, 64, 3)
    outputs = []
    for method in (Monarch(blocks=4), MoST(blocks=4, lam=0.0), MoST(blocks=4, sides=0)):
        torch.manual_seed(1)
        backbone = PointMAE(width=32, depth=2, heads=2, groups=8, group_size=8).eval()
        method.attach(backbone)
        generator = torch.Generator().manual_seed(2)
        for module in backbone.modules():
            if isinstance(module, MonarchUpdate):
                nn.init.normal_(module.most.blkdiag2, generator=generator)
        outputs.append(backbone.encode(points).features)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_bias_is_added_behind_the_smoothing() -> None:
    layer, where = monarch_layer(WIDE, bias=True), geometry()
    nn.init.zeros_(layer.most.blkdiag2)
    x = tokens(WIDE[0])
    with published(where):
        difference = layer(x) - layer.base(x)
    assert layer.most.bias is not None
    torch.testing.assert_close(difference, layer.most.bias.expand_as(difference), atol=1e-6, rtol=0)


def test_dropout_acts_on_the_input_in_training_only() -> None:
    layer, x, where = monarch_layer(WIDE, dropout=0.5), tokens(WIDE[0]), geometry()
    with published(where):
        torch.manual_seed(3)
        trained = layer.train()(x)
        torch.manual_seed(3)
        assert torch.equal(trained, layer.base(x) + layer.update(nn.functional.dropout(x, 0.5)))
        assert torch.equal(layer.eval()(x), layer.base(x) + layer.update(x))


def test_order_of_the_patches_does_not_matter() -> None:
    layer, x, where = monarch_layer(WIDE), tokens(WIDE[0]), geometry()
    order = torch.randperm(CENTERS, generator=torch.Generator().manual_seed(4))
    places = torch.cat([torch.arange(BYPASS), BYPASS + order])
    level = where.levels[0]
    with published(where):
        expected = layer(x)[:, places]
    with published(Geometry([Level(level.centers[:, order], level.slots)])):
        torch.testing.assert_close(layer(x[:, places]), expected, atol=1e-5, rtol=1e-5)


def test_rotating_the_cloud_changes_nothing() -> None:
    layer, x, where = monarch_layer(WIDE), tokens(WIDE[0]), geometry()
    level = where.levels[0]
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)))[0]
    with published(where):
        expected = layer(x)
    with published(Geometry([Level(level.centers @ rotation, level.slots)])):
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_one_cloud_does_not_reach_another() -> None:
    layer, where = monarch_layer(WIDE), geometry(batch=3)
    x = tokens(WIDE[0], batch=3)
    level = where.levels[0]
    with published(where):
        together = layer(x)
    for one in range(3):
        with published(Geometry([Level(level.centers[[one]], level.slots)])):
            torch.testing.assert_close(layer(x[[one]]), together[[one]], atol=1e-6, rtol=1e-6)


def test_without_geometry_the_layer_is_named() -> None:
    with pytest.raises(GeometryError, match=r"some\.layer needs the centers of its tokens"):
        monarch_layer(WIDE)(tokens(WIDE[0]))
    with published(Geometry([])), pytest.raises(GeometryError, match="no geometry of level 0"):
        monarch_layer(WIDE)(tokens(WIDE[0]))


@pytest.mark.parametrize("shape", [(2, TOKENS + 1, WIDE[0]), (2 * TOKENS, WIDE[0])])
def test_another_number_of_tokens_is_refused(shape: tuple[int, ...]) -> None:
    with published(geometry()), pytest.raises(GeometryError, match=rf"some\.layer got tokens .* describes {TOKENS}"):
        monarch_layer(WIDE)(torch.zeros(shape))


def test_layers_without_centers_need_sides_0() -> None:
    for targets in (("pos_embed.2",), ("patch_embedding",)):
        backbone = PointMAE(width=32, depth=1, heads=2, groups=8, group_size=8).eval()
        with pytest.raises(UsageError, match="reads no tokens with centers"):
            MoST(blocks=2, targets=targets).attach(backbone)
        points = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(6))
        before = backbone.encode(points).features
        MoST(blocks=2, sides=0, bias=True, targets=targets).attach(backbone)
        torch.testing.assert_close(backbone.encode(points).features, before, atol=1e-5, rtol=1e-5)
        wrapped = [module for module in backbone.modules() if isinstance(module, MonarchUpdate)]
        assert wrapped
        for module in wrapped:
            nn.init.normal_(module.most.blkdiag2)
        assert (backbone.encode(points).features - before).abs().max() > 1e-3


def test_a_convolution_takes_the_same_update_as_a_linear_layer() -> None:
    linear = monarch_layer(WIDE, sides=0, bias=True)
    convolution = nn.Conv1d(*WIDE, 1)
    x = tokens(WIDE[0])
    with torch.no_grad():
        convolution.weight.copy_(linear.base.weight[:, :, None])
        assert convolution.bias is not None
        convolution.bias.copy_(linear.base.bias)
    layer = MonarchUpdate(convolution, linear.most, linear.rectify, 0, "conv", 0.0)
    torch.testing.assert_close(layer(x.mT).mT, linear(x), atol=1e-5, rtol=1e-5)
    folded = layer.folded("exact")
    torch.testing.assert_close(folded(x.mT).mT, linear(x), atol=1e-5, rtol=1e-5)
