"""The frozen patch encoder by exact algebra against its textbook form, at Point-MAE size.

python tests/benchmarks/patch_encoder.py [ROUNDS]
"""

from __future__ import annotations

import sys

import torch
from pairs import compare

from geopeft_cli.backbones.patch_encoder import PatchEncoder


@torch.no_grad()
def main(rounds: int = 15) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(384).eval().requires_grad_(False)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    groups = 0.1 * torch.randn(8 * 64, 32, 3)
    difference = float((encoder.textbook(groups) - encoder.folded(groups)).abs().max())
    times = compare({"folded": lambda: encoder.folded(groups), "textbook": lambda: encoder.textbook(groups)}, rounds)
    print(f"8 clouds of 64 groups of 32 points, {torch.get_num_threads()} threads, median of {rounds} rounds")
    for name, (seconds, ratio) in times.items():
        print(f"{name:10}{1000 * seconds:8.1f} ms{ratio:7.2f} x")
    print(f"largest difference {difference:.1e}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
