"""The selective scan against its definition, its gradient, and what it keeps in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.backbones import selective_scan as module
from geopeft_cli.backbones.selective_scan import selective_scan


def arguments(batch: int, length: int, width: int, state: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    tensors = [
        draw(batch, length, width),
        F.softplus(draw(batch, length, width) - 1),
        -draw(width, state).mul(0.5).exp(),
        draw(batch, length, state),
        draw(batch, length, state),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


def by_definition(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    state, outputs = torch.zeros(len(u), *a.shape, dtype=u.dtype), []
    for t in range(u.shape[1]):
        state = torch.exp(delta[:, t, :, None] * a) * state + (delta * u)[:, t, :, None] * b[:, t, None]
        outputs.append((state * c[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def gradients(y: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    return torch.autograd.grad((y * weights).sum(), tensors)


@pytest.mark.parametrize("length", [1, 12, 13, 40])
def test_outputs_and_gradients_are_those_of_the_definition(length: int) -> None:
    tensors = arguments(3, length, 20, 16)
    y, expected = selective_scan(*tensors), by_definition(*tensors)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    for own, reference in zip(gradients(y, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(own, reference, atol=1e-5 * float(reference.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 50])
def test_gradient_in_double_precision(chunk: int) -> None:
    tensors = arguments(2, 7, 3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda *given: selective_scan(*given, chunk=chunk), tensors)


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_chunks_and_slices_of_the_batch_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = arguments(4, 26, 8, 4)
    y = selective_scan(*tensors)
    expected = gradients(y, tensors)
    monkeypatch.setattr(module, "_AT_ONCE", 3 * chunk * 8 * 4)
    again = selective_scan(*tensors, chunk=chunk)
    torch.testing.assert_close(again, y, atol=1e-6, rtol=1e-6)
    for own, reference in zip(gradients(again, tensors), expected, strict=True):
        torch.testing.assert_close(own, reference, atol=1e-5, rtol=1e-5)


def test_the_form_for_recorded_graphs_is_the_same() -> None:
    u, delta, a, b, c = arguments(2, 13, 6, 4)
    torch.testing.assert_close(
        module._by_doubling(u, delta, a.mT, b, c), by_definition(u, delta, a, b, c), atol=1e-5, rtol=1e-5
    )


def saved_elements(length: int, chunk: int) -> int:
    """Elements that autograd keeps beyond the arguments."""
    tensors = arguments(2, length, 32, 16)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(*tensors, chunk=chunk)
    return sum(tensor.numel() for tensor in kept) - sum(tensor.numel() for tensor in tensors)


def test_memory_is_one_state_a_chunk() -> None:
    state = 2 * 32 * 16
    assert saved_elements(24, 12) == 2 * state
    assert saved_elements(120, 12) == 10 * state
    assert saved_elements(120, 120) == state


def test_nothing_is_kept_without_gradients() -> None:
    tensors = arguments(2, 24, 8, 4)
    expected = selective_scan(*tensors)
    with torch.no_grad():
        y = selective_scan(*tensors)
    assert y.grad_fn is None
    assert torch.equal(y, expected)
    assert selective_scan(*[tensor.detach() for tensor in tensors]).grad_fn is None


def test_frozen_rates_get_no_gradient_and_the_others_the_same() -> None:
    tensors = arguments(2, 13, 6, 4)
    expected = gradients(selective_scan(*tensors), tensors)
    frozen = [tensor.detach().requires_grad_(index != 2) for index, tensor in enumerate(tensors)]
    rest = [tensor for tensor in frozen if tensor.requires_grad]
    own = gradients(selective_scan(*frozen), rest)
    assert all(torch.equal(a, b) for a, b in zip(own, expected[:2] + expected[3:], strict=True))


def test_half_precision_is_computed_in_single() -> None:
    tensors = [tensor.detach().bfloat16() for tensor in arguments(2, 30, 8, 4)]
    expected = selective_scan(*[tensor.float() for tensor in tensors])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(*tensors), expected.bfloat16())
        assert torch.equal(selective_scan(*[tensor.float() for tensor in tensors]), expected)
