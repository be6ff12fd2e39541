"""Merge modes of a Monarch layer: which are exact, what the others are fitted by, and where a bias goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Geometry, Level, published
from geopeft_cli.errors import MergeError
from geopeft_cli.methods.most import FoldStatistics, MonarchUpdate
from methods.scene import BYPASS, CENTERS, NARROW, WIDE, geometry, monarch_layer, tokens

BOTH = pytest.mark.parametrize("sizes", [WIDE, NARROW], ids=["wide", "narrow"])
APPROXIMATE = ("drop-k", "dc", "calibrated")


def outputs(layer: nn.Module, x: Tensor, where: Geometry) -> Tensor:
    with torch.no_grad(), published(where):
        return layer(x)  # type: ignore[no-any-return]


def calibrated(layer: MonarchUpdate, x: Tensor, where: Geometry) -> FoldStatistics:
    record = layer.calibration()
    with published(where):
        record.add(x)
    return record


def relative_error(layer: MonarchUpdate, folded: nn.Module, x: Tensor, where: Geometry) -> float:
    base = outputs(layer.base, x, where)
    target, merged = outputs(layer, x, where) - base, outputs(folded, x, where) - base
    return float((target - merged).norm() / target.norm())


@pytest.mark.parametrize(("lam", "sides"), [(0.0, 2), (0.5, 0)])
@BOTH
def test_without_geometry_the_fold_is_exact_and_plain(sizes: tuple[int, int], lam: float, sides: int) -> None:
    layer, x = monarch_layer(sizes, lam=lam, sides=sides, bias=True), tokens(sizes[0])
    assert (layer.exact_modes, layer.approximate_modes) == (("exact",), ())
    folded = layer.folded("exact")
    assert type(folded) is nn.Linear
    torch.testing.assert_close(folded(x), layer(x), atol=1e-5, rtol=1e-5)
    assert layer.most.bias is not None
    weight = layer.base.weight.double() + layer.most.dense()
    assert torch.equal(folded.weight, weight.float())
    assert torch.equal(folded.bias, (layer.base.bias.double() + layer.most.bias.double()).float())


@BOTH
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("base_bias", [False, True])
def test_keep_k_is_exact(sizes: tuple[int, int], sides: int, bias: bool, base_bias: bool) -> None:
    layer, x, where = monarch_layer(sizes, sides=sides, bias=bias, base_bias=base_bias), tokens(sizes[0]), geometry()
    assert (layer.exact_modes, layer.approximate_modes) == (("keep-k",), APPROXIMATE)
    folded = layer.folded("keep-k")
    assert isinstance(folded, MonarchUpdate)
    assert torch.equal(folded.base.weight, (layer.base.weight.double() + layer.most.dense()).float())
    torch.testing.assert_close(outputs(folded, x, where), outputs(layer, x, where), atol=1e-5, rtol=1e-5)
    assert (folded.most.bias is not None) == (bias and not base_bias)
    # the merged weight alone is what tokens without a center see
    plain, merged = outputs(folded.base, x, where)[:, :BYPASS], outputs(folded, x, where)[:, :BYPASS]
    extra = 0 if folded.most.bias is None else folded.most.bias
    torch.testing.assert_close(merged, plain + extra, atol=1e-6, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("bias", [False, True])
def test_an_empty_layer_takes_the_tensors_of_a_kept_one(sizes: tuple[int, int], bias: bool) -> None:
    for base_bias in (False, True):
        layer = monarch_layer(sizes, bias=bias, base_bias=base_bias)
        kept = layer.folded("keep-k")
        empty = monarch_layer(sizes, bias=bias, base_bias=base_bias, seed=7)
        empty.expect_merged_base()
        empty.load_state_dict(kept.state_dict())
        x, where = tokens(sizes[0]), geometry()
        assert torch.equal(outputs(empty, x, where), outputs(kept, x, where))


def test_folding_leaves_the_layer_as_it_is() -> None:
    layer = monarch_layer(WIDE, bias=True)
    before = copy.deepcopy(layer.state_dict())
    for mode in ("keep-k", *APPROXIMATE):
        layer.folded(mode)
    assert not layer.kept
    assert layer.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@BOTH
@pytest.mark.parametrize("sides", [1, 2])
def test_coefficients(sizes: tuple[int, int], sides: int) -> None:
    layer, x, where = monarch_layer(sizes, sides=sides), tokens(sizes[0]), geometry()
    record = calibrated(layer, x, where)
    with torch.no_grad(), published(where):
        target, plain = layer.update(x).double().reshape(-1, 1), layer.most(x).double().reshape(-1, 1)
    best = float(torch.linalg.lstsq(plain, target).solution)
    expected = {"drop-k": 1.0, "dc": 1.5**sides, "calibrated": best}
    for mode, factor in expected.items():
        assert record.coefficient(mode) == pytest.approx(factor, rel=1e-6)
        folded = layer.folded(mode, record)
        assert type(folded) is nn.Linear
        weight = layer.base.weight.double() + factor * layer.most.dense()
        torch.testing.assert_close(folded.weight, weight.float(), atol=1e-6, rtol=1e-6)
        assert record.error(mode, record) == pytest.approx(relative_error(layer, folded, x, where), rel=1e-4)


@BOTH
def test_calibrated_is_never_worse_on_its_own_tokens(sizes: tuple[int, int]) -> None:
    for seed in range(5):
        layer = monarch_layer(sizes, seed=seed)
        record = calibrated(layer, tokens(sizes[0], seed=seed), geometry(seed=seed))
        errors = {mode: record.error(mode, record) for mode in APPROXIMATE}
        assert errors["calibrated"] <= min(errors["drop-k"], errors["dc"])
        assert 0.01 < errors["calibrated"] < 1


def test_records_add_up_over_batches() -> None:
    layer, where = monarch_layer(WIDE), geometry()
    once, twice = layer.calibration(), layer.calibration()
    batches = [tokens(WIDE[0], seed=seed) for seed in (1, 2)]
    with published(where):
        for batch in batches:
            twice.add(batch)
    centers = where.levels[0].centers.repeat(2, 1, 1)
    with published(Geometry([Level(centers, where.levels[0].slots)])):
        once.add(torch.cat(batches))
    assert once.coefficient("calibrated") == pytest.approx(twice.coefficient("calibrated"), rel=1e-6)
    assert once.coefficient("calibrated") != pytest.approx(
        calibrated(layer, batches[0], where).coefficient("calibrated"), rel=1e-3
    )


@BOTH
@pytest.mark.parametrize(("sides", "lost"), [(1, 1 - 1 / 1.5), (2, 1 - 1 / 2.25)])
def test_dc_is_exact_on_a_constant_field_and_drop_k_loses_the_gain(
    sizes: tuple[int, int], sides: int, lost: float
) -> None:
    layer = monarch_layer(sizes, sides=sides)
    level = Level(geometry().levels[0].centers, torch.arange(CENTERS))
    x = tokens(sizes[0])[:, :1].expand(-1, CENTERS, -1)
    record = calibrated(layer, x, Geometry([level]))
    assert record.error("dc", record) < 1e-6
    assert record.error("calibrated", record) < 1e-6
    assert record.error("drop-k", record) == pytest.approx(lost, rel=1e-5)


def test_an_update_that_is_zero_has_no_error() -> None:
    layer = monarch_layer(WIDE, fresh=True)
    record = calibrated(layer, tokens(WIDE[0]), geometry())
    assert [record.error(mode, record) for mode in APPROXIMATE] == [0.0, 0.0, 0.0]
    assert record.coefficient("calibrated") == 1.0


@pytest.mark.parametrize("mode", APPROXIMATE)
def test_a_bias_needs_a_place_in_the_base(mode: str) -> None:
    layer = monarch_layer(WIDE, bias=True, base_bias=False)
    with pytest.raises(MergeError, match="has a bias and the layer it belongs to has none") as caught:
        layer.folded(mode)
    assert "keep-k" in str(caught.value.hint)
    with_place = monarch_layer(WIDE, bias=True).folded(mode)
    assert with_place.bias is not None


def test_a_bias_without_a_place_stops_the_exact_fold_with_a_hint_that_can_be_followed() -> None:
    layer = monarch_layer(WIDE, lam=0.0, bias=True, base_bias=False)
    with pytest.raises(MergeError, match="has a bias") as caught:
        layer.folded("exact")
    assert "Keep the adapter beside its base" in str(caught.value.hint)  # there is no keep-k here


@pytest.mark.parametrize("mode", ["keep-k", *APPROXIMATE])
@pytest.mark.parametrize("where", ["blkdiag1", "blkdiag2", "bias"])
def test_a_damaged_update_does_not_fold(mode: str, where: str) -> None:
    layer = monarch_layer(WIDE, bias=True)
    with torch.no_grad():
        layer.most.get_parameter(where).view(-1)[0] = torch.nan
    with pytest.raises(MergeError, match="not finite"):
        layer.folded(mode)
