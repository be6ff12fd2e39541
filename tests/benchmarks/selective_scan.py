"""The selective scan against two forms of its definition under autograd, forward and backward, at Mamba3D size.

    python tests/benchmarks/selective_scan.py [--rounds 3] [--clouds 32] [--threads 2]

``textbook`` discretizes all tokens at once and takes one slice a step, as reference implementations do; every slice
gives the backward pass a tensor of full size. ``loop`` discretizes token by token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from pairs import compare
from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.backbones.selective_scan import selective_scan

LENGTH, WIDTH, STATE = 129, 768, 16


def textbook(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    decay = torch.exp(delta.unsqueeze(3) * a)
    driven = (delta * u).unsqueeze(3) * b.unsqueeze(2)
    state, outputs = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[1]):
        state = decay[:, t] * state + driven[:, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, c[:, t]))
    return torch.stack(outputs, dim=1)


def loop(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    state, outputs = u.new_zeros(len(u), *a.shape), []
    for u_t, delta_t, b_t, c_t in zip(u.unbind(1), delta.unbind(1), b.unbind(1), c.unbind(1), strict=True):
        state = torch.exp(delta_t.unsqueeze(2) * a) * state + (delta_t * u_t).unsqueeze(2) * b_t.unsqueeze(1)
        outputs.append(torch.einsum("bdn,bn->bd", state, c_t))
    return torch.stack(outputs, dim=1)


def arguments(clouds: int) -> list[Tensor]:
    torch.manual_seed(0)
    tensors = [
        torch.randn(clouds, LENGTH, WIDTH),
        F.softplus(torch.randn(clouds, LENGTH, WIDTH) - 2),
        -torch.arange(1.0, STATE + 1).repeat(WIDTH, 1),
        torch.randn(clouds, LENGTH, STATE),
        torch.randn(clouds, LENGTH, STATE),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


def saved_mebibytes(scan: Callable[..., Tensor], tensors: list[Tensor]) -> float:
    """What autograd keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = scan(*tensors)  # noqa: F841 - its graph keeps the storages alive, so that no address is used again
    return sum(kept.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 3), ("clouds", 32), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tensors = arguments(options.clouds)
    scans = {"ours": selective_scan, "loop": loop, "textbook": textbook}

    def step(scan: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(scan(*tensors).square().sum(), tensors)

    expected = step(loop)
    difference = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(step(selective_scan), expected, strict=True)
    )
    times = compare({name: lambda scan=scan: step(scan) for name, scan in scans.items()}, options.rounds)
    print(f"{options.clouds} clouds of {LENGTH} tokens, width {WIDTH}, state {STATE}, {options.threads} threads")
    for name, (seconds, ratio) in times.items():
        print(f"{name:10}{1000 * seconds:9.1f} ms{ratio:8.2f} x{saved_mebibytes(scans[name], tensors):9.1f} MiB kept")
    print(f"largest relative difference of a gradient {difference:.1e}")


if __name__ == "__main__":
    main()
