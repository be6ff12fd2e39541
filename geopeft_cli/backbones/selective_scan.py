"""The recurrence of selective state-space models (Gu and Dao, 2023, arXiv 2312.00752), with its gradient by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geopeft_cli.geometry.precision import full_precision

CHUNK = 12  # steps between stored states, about the square root of the 129 tokens of Mamba3D
# Elements of a chunk's states that are worked on at a time: 1 MiB stays in the caches of a CPU core.
_AT_ONCE = 2**18
_AT_ONCE_ON_DEVICE = 2**28


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """y_t = h_t c_t with h_t = exp(delta_t a) h_{t-1} + (delta_t u_t) b_t^T, h_0 = 0, for every cloud by itself.

    Computed in float32, or float64 if that comes in, also under autocast. Kept for the backward pass are the
    arguments and every ``chunk``-th state; the other states are computed again, so that memory grows by
    B L D N / chunk.

    Args:
        u: (B, L, D), input.
        delta: (B, L, D), positive step widths.
        a: (D, N), negative rates.
        b: (B, L, N), what the state takes of the input.
        c: (B, L, N), what the output takes of the state.
        chunk: steps between stored states.

    Returns:
        (B, L, D), in the dtype of ``u``.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    wide = tuple(tensor.to(dtype) for tensor in (u, delta, a.mT, b, c))
    with full_precision(u.device):
        if torch.compiler.is_compiling():
            return _by_doubling(*wide).to(u.dtype)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in wide):
            y: Tensor = _Scan.apply(*wide, chunk)  # type: ignore[no-untyped-call]
            return y.to(u.dtype)
        return _forward(chunk, None, *wide).to(u.dtype)


class _Scan(torch.autograd.Function):
    """Arguments as those of :func:`selective_scan`, in one dtype, the rates as (N, D)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int) -> Tensor:
        starts = u.new_empty(u.shape[0], -(-u.shape[1] // chunk), *a.shape)
        y = _forward(chunk, starts, u, delta, a, b, c)
        ctx.save_for_backward(u, delta, a, b, c, starts)
        ctx.chunk = chunk
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(gradient.device):
            return _backward(ctx, gradient)


def _forward(chunk: int, starts: Tensor | None, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The outputs; the state before every chunk goes to ``starts`` (B, chunks, N, D)."""
    y = torch.empty_like(u)
    for clouds in _slices(u, a, chunk):
        state = u.new_zeros(clouds.stop - clouds.start, *a.shape)
        for index, first in enumerate(range(0, u.shape[1], chunk)):
            part = (clouds, slice(first, first + chunk))
            if starts is not None:
                starts[clouds, index] = state
            states = _states(state, u[part], delta[part], a, b[part])[1]
            y[part] = (c[part].unsqueeze(2) @ states).squeeze(2)
            state = states[:, -1]
    return y


def _states(start: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """exp(delta_t a) and h_t of a chunk of K steps, each (B, K, N, D), from the state (B, N, D) before it."""
    decay = (delta.unsqueeze(2) * a).exp_()
    states = (delta * u).unsqueeze(2) * b.unsqueeze(3)
    before = start
    for step in range(states.shape[1]):
        before = states[:, step].addcmul_(decay[:, step], before)
    return decay, states


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    u, delta, a, b, c, starts = ctx.saved_tensors
    of_u, of_delta, of_b, of_c = (torch.empty_like(tensor) for tensor in (u, delta, b, c))
    of_a = torch.zeros_like(a) if ctx.needs_input_grad[2] else None
    for clouds in _slices(u, a, ctx.chunk):
        carried = torch.zeros_like(starts[clouds, 0])
        for index in reversed(range(starts.shape[1])):
            part = (clouds, slice(index * ctx.chunk, (index + 1) * ctx.chunk))
            start = starts[clouds, index]
            decay, states = _states(start, u[part], delta[part], a, b[part])
            of_states = c[part].unsqueeze(3) * gradient[part].unsqueeze(2)
            of_states[:, -1] += carried
            for step in reversed(range(states.shape[1] - 1)):
                of_states[:, step].addcmul_(decay[:, step + 1], of_states[:, step + 1])
            carried = decay[:, 0] * of_states[:, 0]
            of_c[part] = (states @ gradient[part].unsqueeze(3)).squeeze(3)
            of_b[part] = (of_states @ (delta[part] * u[part]).unsqueeze(3)).squeeze(3)
            of_driven = (b[part].unsqueeze(2) @ of_states).squeeze(2)
            of_u[part] = delta[part] * of_driven
            of_exponent = decay.mul_(of_states)
            of_exponent[:, 0] *= start
            of_exponent[:, 1:] *= states[:, :-1]
            of_delta[part] = torch.mul(of_exponent, a, out=of_states).sum(2).addcmul_(u[part], of_driven)
            if of_a is not None:
                of_a += of_exponent.mul_(delta[part].unsqueeze(2)).sum((0, 1))
    return of_u, of_delta, of_a, of_b, of_c, None


def _slices(u: Tensor, a: Tensor, chunk: int) -> Iterator[slice]:
    """The clouds of a batch, a few at a time."""
    budget = _AT_ONCE if u.device.type == "cpu" else _AT_ONCE_ON_DEVICE
    size = max(1, budget // (min(chunk, u.shape[1]) * a.numel()))
    for first in range(0, u.shape[0], size):
        yield slice(first, min(first + size, u.shape[0]))


def _by_doubling(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The same in log2(L) steps over all tokens, for recorded graphs: pairs (decay, state) are combined in runs of
    1, 2, 4, ... tokens."""
    decay = (delta.unsqueeze(2) * a).exp()
    states = (delta * u).unsqueeze(2) * b.unsqueeze(3)
    run = 1
    while run < u.shape[1]:
        later = decay[:, run:]
        states = torch.cat([states[:, :run], torch.addcmul(states[:, run:], later, states[:, :-run])], dim=1)
        decay = torch.cat([decay[:, :run], later * decay[:, :-run]], dim=1)
        run *= 2
    return (c.unsqueeze(2) @ states).squeeze(2)
