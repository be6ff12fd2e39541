"""The mixers of Mamba networks by their definition, token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.backbones.mixer import Mixer, TwoScanMixer

WIDTH, INNER = 32, 64
X = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(0))

both_mixers = pytest.mark.parametrize("kind", [Mixer, TwoScanMixer])


def moved(kind: type[Mixer]) -> Any:
    torch.manual_seed(0)
    mixer = kind(WIDTH)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return mixer


def scan(x: Tensor, z: Tensor, mixer: Any, suffix: str = "") -> Tensor:
    """One scan, token by token and channels last, from the formulas."""

    def own(name: str) -> Any:
        return mixer.get_submodule(name + suffix)

    conv, rank = own("conv1d"), mixer.rank
    rates = -(mixer.A_log if not suffix else mixer.A_b_log).exp()
    skip = mixer.D if not suffix else mixer.D_b
    state, outputs = torch.zeros(len(x), *rates.shape), []
    for t in range(x.shape[1]):
        taps = [conv.weight[:, 0, j] * x[:, t - 3 + j] for j in range(4) if t - 3 + j >= 0]
        u = F.silu(torch.stack(taps).sum(0) + conv.bias)
        values = u @ own("x_proj").weight.T
        step, b, c = values[:, :rank], values[:, rank : rank + 16], values[:, rank + 16 :]
        delta = F.softplus(step @ own("dt_proj").weight.T + own("dt_proj").bias)
        state = torch.exp(delta[..., None] * rates) * state + (delta * u)[..., None] * b[:, None]
        outputs.append(((state * c[:, None]).sum(-1) + skip * u) * F.silu(z[:, t]))
    return torch.stack(outputs, dim=1)


def signal_and_gate(mixer: Any) -> tuple[Tensor, Tensor]:
    channels = X @ mixer.in_proj.weight.T
    return channels[..., :INNER], channels[..., INNER:]


@torch.no_grad()
def test_one_scan_is_its_definition_and_runs_forward() -> None:
    mixer = moved(Mixer)
    signal, gate = signal_and_gate(mixer)
    torch.testing.assert_close(mixer(X), scan(signal, gate, mixer) @ mixer.out_proj.weight.T, atol=1e-5, rtol=1e-5)
    backward = scan(signal.flip(1), gate.flip(1), mixer).flip(1)
    assert float((mixer(X) - backward @ mixer.out_proj.weight.T).abs().max()) > 1e-3


@torch.no_grad()
def test_the_second_scan_reverses_channels() -> None:
    mixer = moved(TwoScanMixer)
    signal, gate = signal_and_gate(mixer)
    first = scan(signal, gate, mixer)
    second = scan(gate.flip(-1), signal.flip(-1), mixer, "_b").flip(-1)
    torch.testing.assert_close(mixer(X), (first + second) @ mixer.out_proj.weight.T, atol=1e-5, rtol=1e-5)
    over_tokens = scan(signal.flip(1), gate.flip(1), mixer, "_b").flip(1)
    assert float((mixer(X) - (first + over_tokens) @ mixer.out_proj.weight.T).abs().max()) > 1e-3


@both_mixers
@torch.no_grad()
def test_a_token_does_not_see_later_ones(kind: type[Mixer]) -> None:
    mixer, changed = moved(kind), X.clone()
    changed[:, 5:] += 1
    assert torch.equal(mixer(X)[:, :5], mixer(changed)[:, :5])


@both_mixers
def test_the_layers_are_all_dense_layers_in_the_order_of_their_calls(kind: type[Mixer]) -> None:
    mixer, called = moved(kind), []
    for name, module in mixer.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    mixer(X)
    assert called == [name for name, _ in kind.layers]
