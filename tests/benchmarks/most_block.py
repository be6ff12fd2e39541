"""Forward and backward of one Point-MAE block with MoST against LoRA, full fine-tuning and K applied twice a layer.

    python tests/benchmarks/most_block.py [--rounds 11] [--batch 32] [--groups 128] [--threads 2]

Width 384, 6 heads, a class token and ``groups`` patches. MoST is the default (8 blocks, K on both sides, one K^2 x
on the narrower side). "K twice" is the formula as it is written, K (M (K x)): once with the same dense K, once with
K by gathering the neighbors, which is how the code released with the paper smooths. "Nothing trains" is the frozen
block, a floor for every method that leaves it in place. The graph of neighbors and K^2 belong to a forward pass, not to
a block: they are there beforehand, and what making them takes is printed apart. The input requires a gradient, as
inside a network. See ``processes.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from processes import Step, compare

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS = ("MoST", "MoST without K", "LoRA, rank 16", "full", "K twice, dense", "K twice, gathered", "nothing trains")
WIDTH, HEADS = 384, 6


def prepare(variant: str, batch: int, groups: int) -> tuple[Step, int]:
    """A step of a variant, and how many parameters train."""
    import torch

    from geopeft_cli.backbones.point_mae import PointMAE
    from geopeft_cli.contracts import Geometry, Level, published
    from geopeft_cli.methods.lora import LoRA
    from geopeft_cli.methods.most import MoST

    backbone = PointMAE(WIDTH, 1, HEADS, groups=groups, drop_path=0.0)
    backbone.requires_grad_(False)
    block = backbone.blocks.blocks[0].train()
    if variant == "full":
        block.requires_grad_(True)
    elif variant.startswith("LoRA"):
        LoRA(rank=16).attach(backbone)
    elif variant != "nothing trains":
        MoST(lam=0.0 if variant.endswith("without K") else 0.5).attach(backbone)
    if variant.startswith("K twice"):
        apply_k_twice(block, by_gathering=variant.endswith("gathered"))
    for parameter in block.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(batch, groups + 1, WIDTH, requires_grad=True)
    centers, slots = torch.rand(batch, groups, 3), torch.arange(-1, groups)

    once = Level(centers, slots)

    def step() -> None:
        level = Level(centers, slots)
        level._memo.update(once._memo)
        with published(Geometry([level])):
            block(x).square().mean().backward()
        block.zero_grad()
        x.grad = None
        once._memo = {key: value for key, value in level._memo.items() if key != "rectified"}

    return step, sum(p.numel() for p in block.parameters() if p.requires_grad)


def seconds_of_k(batch: int, groups: int, rounds: int) -> float:
    """Median time of finding the neighbors and of making K^2."""
    import torch

    from geopeft_cli.geometry.smoothing import rectifier

    centers, slots = torch.rand(batch, groups, 3), torch.arange(-1, groups)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        rectifier(centers, slots, 4, 0.05, 0.5, 2)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def apply_k_twice(block: Any, by_gathering: bool) -> None:
    """Make every MoST layer of a block compute K (M (K x)) instead of M K^2 x."""
    import torch

    from geopeft_cli.contracts import current_level
    from geopeft_cli.geometry.interpolation import interpolate
    from geopeft_cli.geometry.neighbors import nearest_neighbors
    from geopeft_cli.geometry.smoothing import rectifier
    from geopeft_cli.methods.monarch_update import MonarchUpdate

    def dense(x: Tensor) -> Tensor:
        level = current_level(0, "benchmark")
        return torch.bmm(level.memo("K", lambda: rectifier(level.centers, level.slots, 4, 0.05, 0.5, 1)), x)

    def gathered(x: Tensor) -> Tensor:
        level = current_level(0, "benchmark")
        index, squared = level.memo("k", lambda: nearest_neighbors(level.centers, level.centers, 4, exclude_self=True))
        weight = 1 / (squared.sqrt() + 0.05)
        smoothed = interpolate(x[:, 1:], index, weight / weight.sum(-1, keepdim=True))
        return x + 0.5 * torch.cat([torch.zeros_like(x[:, :1]), smoothed], dim=1)

    k = gathered if by_gathering else dense
    for layer in block.modules():
        if isinstance(layer, MonarchUpdate):
            layer.forward = lambda x, layer=layer: layer.base(x).add_(k(layer.most(k(x))))


def warm_up(batch: int, groups: int) -> None:
    """Import and compile what is imported and compiled at first use."""
    import torch

    from geopeft_cli.geometry.smoothing import rectifier
    from geopeft_cli.methods import lora, most  # noqa: F401

    rectifier(torch.rand(batch, groups, 3), torch.arange(-1, groups), 4, 0.05, 0.5, 2)
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    (parameter @ parameter).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 11), ("batch", 32), ("groups", 128), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    sizes = {"batch": options.batch, "groups": options.groups}
    measured = compare(
        VARIANTS, partial(prepare, **sizes), partial(warm_up, **sizes), rounds=options.rounds, threads=options.threads
    )
    most = measured["MoST"]
    print(f"{options.batch} x {options.groups + 1} tokens, {options.threads} threads, {options.rounds} rounds")
    print("| variant | trainable | ms | time of MoST, relative to it | peak MB |\n|---|---|---|---|---|")
    for variant, result in measured.items():
        milliseconds = 1000 * statistics.median(result.seconds)
        print(
            f"| {variant} | {result.fact:,} | {milliseconds:.0f} | {most.ratio(result):.2f} "
            f"| {result.memory / 1e6:.0f} |"
        )
    print(f"neighbors and K^2, once a forward pass: {1000 * seconds_of_k(**sizes, rounds=options.rounds):.0f} ms")


if __name__ == "__main__":
    main()
