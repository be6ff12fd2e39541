"""K-Rectify in a forward pass: tokens that pass by, one computation for all who ask, and nothing kept behind."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Level, PackedLevel, current_level, published
from geopeft_cli.errors import GeometryError
from geopeft_cli.geometry.smoothing import rectifier
from geopeft_cli.methods import rectify
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.methods.most import MoST
from geopeft_cli.methods.rectify import Rectify
from methods.scene import BYPASS, WIDE, geometry, kernel, monarch_layer, tokens

RECTIFY = Rectify(4, 0.05, 0.5, 2)
POINTS = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The centers of every operator that is built."""
    calls: list[Tensor] = []

    def spy(centers: Tensor, *rest: object) -> Tensor:
        calls.append(centers)
        return rectifier(centers, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rectify, "rectifier", spy)
    return calls


def tiny(**settings: object) -> PointMAE:
    torch.manual_seed(0)
    backbone = PointMAE(width=32, depth=2, heads=2, groups=8, group_size=8).eval().requires_grad_(False)
    MoST(blocks=4, **settings).attach(backbone)  # type: ignore[arg-type]
    for module in backbone.modules():
        if isinstance(module, MonarchUpdate):
            torch.nn.init.normal_(module.most.blkdiag2)
    return backbone


@pytest.mark.parametrize("sides", [1, 2])
def test_is_the_power_of_k(sides: int) -> None:
    where, x = geometry(), tokens(12)
    expected = torch.linalg.matrix_power(kernel(where), sides) @ x.double()
    rectified = Rectify(4, 0.05, 0.5, sides)(x, where.levels[0], "test")
    torch.testing.assert_close(rectified.double(), expected, atol=1e-5, rtol=1e-5)


def test_tokens_without_a_center_pass_by_and_touch_no_other() -> None:
    x = tokens(12)
    rectified = RECTIFY(x, geometry().levels[0], "test")
    assert torch.equal(rectified[:, :BYPASS], x[:, :BYPASS])
    assert (rectified[:, BYPASS:] - x[:, BYPASS:]).abs().amax(dim=(0, 2)).min() > 0.1
    other = x.clone()
    other[:, :BYPASS] += 100
    assert torch.equal(RECTIFY(other, geometry().levels[0], "test")[:, BYPASS:], rectified[:, BYPASS:])


@pytest.mark.parametrize(("lam", "sides", "gain"), [(0.5, 2, 2.25), (0.5, 1, 1.5), (0.25, 2, 1.5625), (0.0, 2, 1.0)])
def test_gain_is_what_a_constant_field_is_multiplied_by(lam: float, sides: int, gain: float) -> None:
    operator = Rectify(4, 0.05, lam, sides)
    assert operator.gain == pytest.approx(gain)
    x = torch.ones(2, 18, 1)
    expected = torch.full((2, 16, 1), gain)
    torch.testing.assert_close(operator(x, geometry().levels[0], "test")[:, BYPASS:], expected, atol=1e-6, rtol=0)


def test_gradients_pass_the_transpose() -> None:
    where, x = geometry(), tokens(3).double().requires_grad_()
    weights = tokens(3, seed=2).double()
    (RECTIFY(x, where.levels[0], "test") * weights).sum().backward()
    expected = torch.linalg.matrix_power(kernel(where), 2).mT @ weights
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, atol=1e-5, rtol=1e-5)


def test_the_operator_is_built_once_a_forward_pass(built: list[Tensor]) -> None:
    backbone = tiny(targets=("all",))
    backbone.encode(POINTS)
    assert len(built) == 1
    backbone.encode(POINTS.flip(0))
    assert len(built) == 2
    assert torch.equal(built[1], built[0].flip(0))


def test_layers_that_read_the_same_tensor_share_the_result() -> None:
    level, x = geometry().levels[0], tokens(12)
    first = RECTIFY(x, level, "q")
    assert RECTIFY(x, level, "k") is first
    assert torch.equal(RECTIFY(x, geometry().levels[0], "alone"), first)
    other = Rectify(4, 0.05, 0.5, 1)(x, level, "other power")
    assert not torch.equal(other, first)


def test_a_tensor_changed_in_place_is_another() -> None:
    level, x = geometry().levels[0], tokens(12)
    before = RECTIFY(x, level, "test").clone()
    x.mul_(2)
    torch.testing.assert_close(RECTIFY(x, level, "test"), 2 * before)
    with torch.inference_mode():
        y = tokens(12)
        RECTIFY(y, level, "test")
        y.mul_(2)
        torch.testing.assert_close(RECTIFY(y, level, "test"), 2 * before)


def test_a_tensor_at_the_address_of_a_former_one_is_another() -> None:
    level = geometry().levels[0]
    for seed in range(20):
        x = tokens(12, seed=seed)
        assert torch.equal(RECTIFY(x, level, "test"), RECTIFY(x, geometry().levels[0], "alone"))
        del x


def test_nothing_is_kept_after_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[Level]] = []

    def spy(self: Rectify, x: Tensor, level: Level, reader: str) -> Tensor:
        kept.append(weakref.ref(level))
        return original(self, x, level, reader)

    original = Rectify.__call__
    monkeypatch.setattr(Rectify, "__call__", spy)
    backbone = tiny()
    names = set(backbone.state_dict())
    with torch.no_grad():
        backbone.encode(POINTS)
    gc.collect()
    assert kept
    assert all(reference() is None for reference in kept)
    assert set(backbone.state_dict()) == names
    with pytest.raises(GeometryError):
        current_level(0, "test")


def test_nothing_is_kept_after_an_exception() -> None:
    backbone = tiny()

    def fail(*_: object) -> None:
        assert current_level(0, "test") is not None
        raise RuntimeError("in the middle")

    hook = backbone.norm.register_forward_pre_hook(fail)
    handle = backbone.blocks.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        backbone.encode(POINTS)
    handle.remove()
    hook.remove()
    with pytest.raises(GeometryError):
        current_level(0, "test")
    assert torch.equal(backbone.encode(POINTS).features, tiny().encode(POINTS).features)


def test_an_inner_forward_pass_leaves_the_outer_geometry() -> None:
    outer, inner = geometry(seed=1), geometry(seed=2)
    with published(outer):
        with published(inner):
            assert current_level(0, "test") is inner.levels[0]
        assert current_level(0, "test") is outer.levels[0]


def test_eps_relative_to_the_cloud_does_not_see_its_unit() -> None:
    small, x = geometry().levels[0], tokens(12)
    large = Level(1000 * small.centers, small.slots)
    relative = Rectify(4, {"relative": 0.5}, 0.5, 2)
    torch.testing.assert_close(relative(x, large, "test"), relative(x, small, "test"), atol=1e-5, rtol=1e-5)
    assert (RECTIFY(x, large, "test") - RECTIFY(x, small, "test")).abs().max() > 1e-3
    assert MoST(eps={"relative": 0.5}).settings()["eps"] == {"relative": 0.5}


def test_large_clouds_take_the_sparse_operator(monkeypatch: pytest.MonkeyPatch, built: list[Tensor]) -> None:
    where, x = geometry(), tokens(12)
    expected = RECTIFY(x, where.levels[0], "test")
    assert len(built) == 1
    monkeypatch.setattr(rectify, "DENSE_TOKENS", 17)
    torch.testing.assert_close(RECTIFY(x, geometry().levels[0], "test"), expected, atol=1e-6, rtol=1e-5)
    assert len(built) == 1


@pytest.mark.parametrize("dense", [1024, 8, 0])
def test_packed_scenes_are_smoothed_one_by_one(monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr(rectify, "DENSE_TOKENS", dense)
    generator = torch.Generator().manual_seed(0)
    sizes = (5, 1, 12, 0, 9)
    centers, x = torch.rand(27, 3, generator=generator), torch.randn(27, 4, generator=generator)
    offsets = torch.tensor((0, *sizes)).cumsum(0)
    for eps in (0.05, {"relative": 0.5}):
        operator = Rectify(4, eps, 0.5, 2)
        result = operator(x, PackedLevel(centers, offsets), "test")
        for own, places, part in zip(centers.split(sizes), x.split(sizes), result.split(sizes), strict=True):
            alone = Level(own[None], torch.arange(len(own)))
            assert torch.equal(part, operator(places[None], alone, "test")[0])
    assert not torch.equal(result[:5], x[:5])


def test_other_tokens_than_the_packed_ones_are_refused() -> None:
    level = PackedLevel(torch.rand(7, 3), torch.tensor([0, 3, 7]))
    for shape in ((8, 5), (1, 7, 5)):
        with pytest.raises(GeometryError, match=r"some\.layer got tokens .* the geometry describes 7 in 2 scenes"):
            RECTIFY(torch.zeros(shape), level, "some.layer")


def test_one_center_is_left_alone() -> None:
    x = torch.randn(2, 2, 5)
    level = Level(torch.zeros(2, 1, 3), torch.tensor([-1, 0]))
    assert torch.equal(RECTIFY(x, level, "test"), x)


def test_repeated_calls_of_a_layer_agree() -> None:
    layer, x, where = monarch_layer(WIDE), tokens(WIDE[0]), geometry()
    with published(where):
        assert torch.equal(layer(x), layer(x))
