"""What mixes the tokens of Mamba networks: convolution, selective scan, gate (Gu and Dao, 2023, arXiv 2312.00752)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.selective_scan import selective_scan
from geopeft_cli.contracts import Role, Site

STATE = 16  # N, entries of the state of a channel
TAPS = 4  # tokens that the convolution before the scan sees, the token itself the last


class Mixer(nn.Module):
    """A selective scan from the first token to the last, (B, T, C) -> (B, T, C).

    Attributes:
        layers: names and roles of the dense layers, in the order of the forward pass.
    """

    layers: ClassVar[tuple[tuple[str, Role], ...]] = (
        ("in_proj", "attention_in"),
        ("x_proj", "scan"),
        ("dt_proj", "scan"),
        ("out_proj", "attention_out"),
    )

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.rank = 2 * width, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * self.inner, bias=False)
        self.conv1d, self.x_proj, self.dt_proj = self._convolution(), self._to_step_and_state(), self._to_width()
        self.A_log, self.D = self._rates(), nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.mix(self.in_proj(x)))  # type: ignore[no-any-return]

    def mix(self, channels: Tensor) -> Tensor:
        """Signal and gate (B, T, 4 C) -> (B, T, 2 C)."""
        return self._scan(channels, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)

    def _convolution(self) -> nn.Conv1d:
        return nn.Conv1d(self.inner, self.inner, TAPS, groups=self.inner, padding=TAPS - 1)

    def _to_step_and_state(self) -> nn.Linear:
        return nn.Linear(self.inner, self.rank + 2 * STATE, bias=False)

    def _to_width(self) -> nn.Linear:
        return nn.Linear(self.rank, self.inner)

    def _rates(self) -> nn.Parameter:
        return nn.Parameter(torch.arange(1.0, STATE + 1).log().repeat(self.inner, 1))

    def _scan(
        self, channels: Tensor, conv: nn.Module, x_proj: nn.Module, dt_proj: nn.Module, a_log: Tensor, skip: Tensor
    ) -> Tensor:
        signal, gate = channels.chunk(2, dim=-1)
        u = F.silu(conv(signal.mT)[..., : signal.shape[1]].mT)
        step, b, c = x_proj(u).split([self.rank, STATE, STATE], dim=-1)
        y = selective_scan(u, F.softplus(dt_proj(step)), -a_log.exp(), b, c)
        return (y + skip * u) * F.silu(gate)


class TwoScanMixer(Mixer):
    """The mixer of Mamba3D, with a second scan; in the released code ``bimamba_type: v4``.

    Both scans run from the first token to the last. The second sees the 4 C channels in reverse, so that signal and
    gate change places in it.
    """

    layers: ClassVar[tuple[tuple[str, Role], ...]] = (
        *Mixer.layers[:-1],
        ("x_proj_b", "scan"),
        ("dt_proj_b", "scan"),
        *Mixer.layers[-1:],
    )

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.conv1d_b, self.x_proj_b, self.dt_proj_b = self._convolution(), self._to_step_and_state(), self._to_width()
        self.A_b_log, self.D_b = self._rates(), nn.Parameter(torch.ones(self.inner))

    def mix(self, channels: Tensor) -> Tensor:
        y = super().mix(channels)
        reverse = self._scan(channels.flip(-1), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        return y + reverse.flip(-1)


def mixer_sites(block: nn.Module, name: str, index: int, kind: type[Mixer] = Mixer) -> list[Site]:
    """The mixer of block ``index``, which is called ``name``, and the mixer's dense layers, as they are called."""
    mixer = block.get_submodule("mixer")
    layers = [Site(f"{name}.mixer.{layer}", role, index, 0, mixer, layer) for layer, role in kind.layers]
    return [Site(f"{name}.mixer", "attention", index, 0, block, "mixer"), *layers]
