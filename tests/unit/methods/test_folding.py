"""Merge modes of a Monarch layer: which are exact, what the others are fitted by, and where a bias goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Calibration, Geometry, Level, published
from geopeft_cli.errors import MergeError
from geopeft_cli.methods.monarch_update import APPROXIMATE, MonarchUpdate, StackedUpdate
from methods.scene import BYPASS, CENTERS, NARROW, WIDE, geometry, monarch_layer, tokens

BOTH = pytest.mark.parametrize("sizes", [WIDE, NARROW], ids=["wide", "narrow"])


def outputs(layer: nn.Module, x: Tensor, where: Geometry) -> Tensor:
    with torch.no_grad(), published(where):
        return layer(x)  # type: ignore[no-any-return]


def calibrated(layer: MonarchUpdate, mode: str, x: Tensor, where: Geometry) -> Calibration:
    record = layer.calibration(mode)
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
    assert (layer.exact_modes, layer.approximate_modes) == (("keep-k", "stacked"), APPROXIMATE)
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
@pytest.mark.parametrize("mode", ["keep-k", "stacked"])
def test_a_layer_folded_without_data_takes_the_tensors_of_another(
    sizes: tuple[int, int], bias: bool, mode: str
) -> None:
    for base_bias in (False, True):
        layer = monarch_layer(sizes, bias=bias, base_bias=base_bias)
        kept = layer.folded(mode)
        empty = monarch_layer(sizes, bias=bias, base_bias=base_bias, seed=7).folded(mode)
        empty.load_state_dict(kept.state_dict())
        x, where = tokens(sizes[0]), geometry()
        assert torch.equal(outputs(empty, x, where), outputs(kept, x, where))


def test_folding_leaves_the_layer_as_it_is() -> None:
    layer = monarch_layer(WIDE, bias=True)
    before = copy.deepcopy(layer.state_dict())
    for mode in (*layer.exact_modes, *APPROXIMATE):
        layer.folded(mode)
    assert not layer.kept
    assert layer.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@BOTH
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("base_bias", [False, True])
def test_stacked_is_one_layer_and_exact(sizes: tuple[int, int], sides: int, bias: bool, base_bias: bool) -> None:
    layer, x, where = monarch_layer(sizes, sides=sides, bias=bias, base_bias=base_bias), tokens(sizes[0]), geometry()
    folded = layer.folded("stacked")
    assert isinstance(folded, StackedUpdate)
    assert folded.base.weight.shape == (sizes[1], 2 * sizes[0])
    assert (folded.base.bias is not None) == (bias or base_bias)
    torch.testing.assert_close(outputs(folded, x, where), outputs(layer, x, where), atol=1e-5, rtol=1e-5)


@BOTH
@pytest.mark.parametrize("sides", [1, 2])
def test_one_factor_for_the_whole_layer(sizes: tuple[int, int], sides: int) -> None:
    layer, x, where = monarch_layer(sizes, sides=sides), tokens(sizes[0]), geometry()
    with torch.no_grad(), published(where):
        target, plain = layer.update(x).double().reshape(-1, 1), layer.most(x).double().reshape(-1, 1)
    best = float(torch.linalg.lstsq(plain, target).solution)
    for mode, factor in {"drop-k": 1.0, "dc": 1.5**sides, "calibrated-scalar": best}.items():
        record = calibrated(layer, mode, x, where)
        folded = layer.folded(mode, record)
        assert type(folded) is nn.Linear
        weight = layer.base.weight.double() + factor * layer.most.dense()
        torch.testing.assert_close(folded.weight, weight.float(), atol=1e-6, rtol=1e-6)
        assert record.error(record) == pytest.approx(relative_error(layer, folded, x, where), rel=1e-4)


@BOTH
@pytest.mark.parametrize("base_bias", [False, True])
def test_the_matrix_is_the_ridge_regression(sizes: tuple[int, int], base_bias: bool) -> None:
    layer, where = monarch_layer(sizes, base_bias=base_bias), geometry(batch=4)
    x = tokens(sizes[0], batch=4) + 3.0
    record = calibrated(layer, "calibrated-matrix", x, where)
    with torch.no_grad(), published(where):
        rectified = layer.rectified(x).flatten(0, 1).double()
        target, plain = layer.update(x).double().reshape(-1, 1), layer.most(x).double().reshape(-1, 1)
    rows, c = x.flatten(0, 1).double(), float(torch.linalg.lstsq(plain, target).solution)
    means = (rows.mean(dim=0), rectified.mean(dim=0)) if base_bias else (0.0, 0.0)
    rows, rectified = rows - means[0], rectified - means[1]
    # ridge regression as a least-squares problem with extra rows that ask for c I
    ridge = (1e-3 * rows.square().sum() / sizes[0]).sqrt() * torch.eye(sizes[0], dtype=torch.float64)
    fitted = torch.linalg.lstsq(torch.cat([rows, ridge]), torch.cat([rectified, c * ridge])).solution
    weight, bias = record.update()
    torch.testing.assert_close(weight, layer.most.dense() @ fitted.mT, atol=1e-6, rtol=1e-6)
    assert (bias is not None) == base_bias
    if bias is not None:
        torch.testing.assert_close(bias, layer.most.dense() @ (means[1] - fitted.mT @ means[0]), atol=1e-5, rtol=1e-5)
    folded = layer.folded("calibrated-matrix", record)
    assert record.error(record) == pytest.approx(relative_error(layer, folded, x, where), rel=1e-3)


@BOTH
def test_a_richer_fit_is_never_worse_on_its_own_tokens(sizes: tuple[int, int]) -> None:
    for seed in range(5):
        layer = monarch_layer(sizes, seed=seed)
        errors = {}
        for mode in APPROXIMATE:
            record = calibrated(layer, mode, tokens(sizes[0], seed=seed), geometry(seed=seed))
            errors[mode] = record.error(record)
        assert errors["calibrated-matrix"] <= errors["calibrated-scalar"] <= min(errors["drop-k"], errors["dc"])
        assert 0.01 < errors["calibrated-scalar"] < 1


@pytest.mark.parametrize("mode", APPROXIMATE)
def test_records_add_up_over_batches(mode: str) -> None:
    layer, where = monarch_layer(WIDE), geometry()
    once, twice = layer.calibration(mode), layer.calibration(mode)
    batches = [tokens(WIDE[0], seed=seed) for seed in (1, 2)]
    with published(where):
        for batch in batches:
            twice.add(batch)
    centers = where.levels[0].centers.repeat(2, 1, 1)
    with published(Geometry([Level(centers, where.levels[0].slots)])):
        once.add(torch.cat(batches))
    torch.testing.assert_close(once.update()[0], twice.update()[0], atol=1e-6, rtol=1e-6)
    if mode.startswith("calibrated"):
        one_batch = calibrated(layer, mode, batches[0], where)
        assert (once.update()[0] - one_batch.update()[0]).abs().max() > 1e-3


def test_error_is_that_of_the_tokens_held_back() -> None:
    layer, where, x = monarch_layer(WIDE), geometry(), tokens(WIDE[0], seed=9)
    for mode in APPROXIMATE:
        fitted = calibrated(layer, mode, tokens(WIDE[0]), where)
        held_back = calibrated(layer, mode, x, where)
        expected = relative_error(layer, layer.folded(mode, fitted), x, where)
        assert fitted.error(held_back) == pytest.approx(expected, rel=1e-3)


@BOTH
@pytest.mark.parametrize(("sides", "lost"), [(1, 1 - 1 / 1.5), (2, 1 - 1 / 2.25)])
def test_dc_is_exact_on_a_constant_field_and_drop_k_loses_the_gain(
    sizes: tuple[int, int], sides: int, lost: float
) -> None:
    layer = monarch_layer(sizes, sides=sides)
    where = Geometry([Level(geometry().levels[0].centers, torch.arange(CENTERS))])
    x = tokens(sizes[0])[:, :1].expand(-1, CENTERS, -1)
    errors = {}
    for mode in APPROXIMATE:
        record = calibrated(layer, mode, x, where)
        errors[mode] = record.error(record)
    assert max(errors["dc"], errors["calibrated-scalar"]) < 1e-6
    assert errors["drop-k"] == pytest.approx(lost, rel=1e-5)


@pytest.mark.parametrize("mode", APPROXIMATE)
def test_an_update_that_is_zero_has_no_error(mode: str) -> None:
    layer = monarch_layer(WIDE, fresh=True)
    record = calibrated(layer, mode, tokens(WIDE[0]), geometry())
    assert record.error(record) == 0.0
    assert not record.update()[0].any()


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


@pytest.mark.parametrize("mode", ["keep-k", "stacked", *APPROXIMATE])
@pytest.mark.parametrize("where", ["blkdiag1", "blkdiag2", "bias"])
def test_a_damaged_update_does_not_fold(mode: str, where: str) -> None:
    layer = monarch_layer(WIDE, bias=True)
    with torch.no_grad():
        layer.most.get_parameter(where).view(-1)[0] = torch.nan
    with pytest.raises(MergeError, match="not finite"):
        layer.folded(mode)
