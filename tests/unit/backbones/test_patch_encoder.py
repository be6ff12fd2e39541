"""The patch encoder: its folded form is the textbook form, and stands in only while nothing in it trains."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.patch_encoder import ROWS_AT_ONCE, PatchEncoder, precise
from geopeft_cli.contracts import Site
from geopeft_cli.methods.lora import LowRankUpdate


def encoder(width: int = 24, seed: int = 0) -> PatchEncoder:
    """Frozen, in eval mode, with weights and statistics far from their start."""
    torch.manual_seed(seed)
    made = PatchEncoder(width)
    for norm in (made.first_conv[1], made.second_conv[1]):
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.05, 4)
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias)
    return made.eval().requires_grad_(False)


def used(made: PatchEncoder, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Runs the encoder and says which form computed."""
    called: list[str] = []
    for form in ("folded", "textbook"):

        def spy(points: Tensor, form: str = form) -> Tensor:
            called.append(form)
            result: Tensor = getattr(PatchEncoder, form)(made, points)
            return result

        monkeypatch.setattr(made, form, spy)

    def run() -> str:
        called.clear()
        made(torch.randn(2, 3, 4, 3))
        assert len(called) == 1
        return called[0]

    return run


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("groups", "size"), [(1, 1), (7, 32), (2 * ROWS_AT_ONCE // 32 + 3, 32)])
def test_folded_is_textbook(seed: int, groups: int, size: int) -> None:
    made = encoder(seed=seed)
    points = torch.randn(groups, size, 3) * 0.3
    folded = made.folded(points)
    assert (folded.shape, folded.dtype) == ((groups, 24), torch.float32)
    torch.testing.assert_close(folded, made.textbook(points), atol=1e-5, rtol=1e-5)
    exact = encoder(seed=seed).double().textbook(points.double())
    torch.testing.assert_close(folded.double(), exact, atol=1e-5, rtol=1e-5)
    assert folded.std() > 0.1 or groups == 1


def test_full_width_in_float64() -> None:
    made = encoder(width=384)
    points = torch.randn(5, 32, 3)
    exact = encoder(width=384).double()
    torch.testing.assert_close(exact.folded(points.double()), exact.textbook(points.double()), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(made.folded(points).double(), exact.textbook(points.double()), atol=1e-5, rtol=1e-5)


def test_more_points_than_one_pass_takes() -> None:
    made = encoder()
    points = torch.randn(3, ROWS_AT_ONCE + 5, 3)
    torch.testing.assert_close(made.folded(points), made.textbook(points), atol=1e-5, rtol=1e-5)


def test_textbook_is_the_definition() -> None:
    made = encoder()
    points = torch.randn(4, 6, 3)
    first, second = made.first_conv, made.second_conv
    rows = []
    for patch in points:
        hidden = first(patch.T[None])
        joined = torch.cat([hidden.max(dim=2).values[:, :, None].repeat(1, 1, 6), hidden], dim=1)
        rows.append(second(joined).max(dim=2).values[0])
    torch.testing.assert_close(made.textbook(points), torch.stack(rows), atol=1e-6, rtol=1e-6)


def test_shapes_and_order_of_groups() -> None:
    made = encoder()
    neighborhoods = torch.randn(2, 5, 4, 3)
    tokens = made(neighborhoods)
    assert tokens.shape == (2, 5, 24)
    torch.testing.assert_close(tokens[1, 3], made.textbook(neighborhoods[1, 3][None])[0], atol=1e-5, rtol=1e-5)


def test_frozen_and_in_eval_mode_it_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder()
    assert used(made, monkeypatch)() == "folded"


def test_without_gradients_it_folds_though_parameters_train(monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder().requires_grad_(True)
    run = used(made, monkeypatch)
    assert run() == "textbook"
    with torch.no_grad():
        assert run() == "folded"


@pytest.mark.parametrize("name", ["first_conv.0.bias", "first_conv.1.bias", "second_conv.3.weight"])
def test_one_parameter_that_trains_is_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = encoder()
    made.get_parameter(name).requires_grad_(True)
    assert used(made, monkeypatch)() == "textbook"
    made(torch.randn(1, 2, 4, 3)).sum().backward()
    gradient = made.get_parameter(name).grad
    assert gradient is not None
    assert bool(gradient.any())


@pytest.mark.parametrize("place", ["first_conv", "second_conv"])
def test_batch_statistics_are_never_folded(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    made = encoder()
    made.get_submodule(place)[1].train()  # type: ignore[index]
    run = used(made, monkeypatch)
    with torch.no_grad():
        assert run() == "textbook"


@pytest.mark.parametrize(("owner", "attribute"), [("first_conv", "0"), ("first_conv", "3"), ("second_conv", "3")])
def test_a_method_at_a_convolution_is_not_bypassed(monkeypatch: pytest.MonkeyPatch, owner: str, attribute: str) -> None:
    made = encoder()
    site = Site(f"encoder.{owner}.{attribute}", "patch_embedding", -1, None, made.get_submodule(owner), attribute)
    base = site.module
    assert isinstance(base, nn.Conv1d)
    layer = LowRankUpdate(base, 2, 1.0, 0.0)
    nn.init.normal_(layer.lora_B.weight)
    neighborhoods = torch.randn(1, 3, 4, 3)
    before = made(neighborhoods)
    site.replace(layer.eval().requires_grad_(False))
    assert used(made, monkeypatch)() == "textbook"
    assert (made(neighborhoods) - before).abs().max() > 1e-3


def test_folded_follows_weights_that_change() -> None:
    made = encoder()
    points = torch.randn(2, 4, 3)
    made.folded(points)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.add_(0.1)
    torch.testing.assert_close(made.folded(points), made.textbook(points), atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_points_through_the_folded_form() -> None:
    made = encoder()
    points = torch.randn(2, 6, 3, requires_grad=True)
    (folded,) = torch.autograd.grad(made.folded(points).sum(), points)
    (textbook,) = torch.autograd.grad(made.textbook(points).sum(), points)
    torch.testing.assert_close(folded, textbook, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("device", "expected"), [("cpu", "float64"), ("cuda", "float64"), ("mps", "float32")])
def test_folding_asks_no_device_for_a_type_that_it_lacks(device: str, expected: str) -> None:
    tensor = SimpleNamespace(device=torch.device(device), float=lambda: "float32", double=lambda: "float64")
    assert precise(tensor) == expected  # type: ignore[arg-type]


def test_under_autocast_both_forms_agree() -> None:
    made = encoder()
    points = torch.randn(4, 8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        folded, textbook = made.folded(points), made.textbook(points)
    exact = made.textbook(points)
    scale = float(exact.abs().max())
    assert float((folded.float() - exact).abs().max()) < 0.03 * scale
    assert float((textbook.float() - exact).abs().max()) < 0.03 * scale
