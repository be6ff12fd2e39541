"""Structures of the blocks of a Monarch factor: the matrix they stand for, their counts, and their start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import official_parameters
from geopeft_cli.errors import UsageError
from geopeft_cli.methods.blocks import KroneckerBlocks, LowRankBlocks, make_blocks, multiply
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.methods.most import Monarch, MoST

LOW_RANK: dict[str, Any] = {"type": "low_rank", "rank": 3}
KRONECKER: dict[str, Any] = {"type": "kronecker"}
SIZED: dict[str, Any] = {"type": "kronecker", "sizes": [2, 2]}
FACTORS = pytest.mark.parametrize("factor", [{"type": "dense"}, LOW_RANK, KRONECKER, SIZED], ids=str)
SHAPE = (4, 8, 6)
SIZES = [(24, 32), (32, 24), (24, 24), (26, 33)]


def moved(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def blocks_of(factors: MonarchFactors, name: str) -> Tensor:
    """The blocks of a factor written out, (b, out, in)."""
    blocks = getattr(factors, name)
    if isinstance(blocks, LowRankBlocks):
        return blocks.u @ blocks.v
    if isinstance(blocks, KroneckerBlocks):
        return torch.stack([torch.kron(a, b) for a, b in zip(blocks.a, blocks.b, strict=True)])
    return blocks  # type: ignore[no-any-return]


@FACTORS
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_is_the_monarch_matrix_of_its_blocks_written_out(sizes: tuple[int, int], factor: dict[str, Any]) -> None:
    if factor is SIZED and sizes == (26, 33):
        factor = KRONECKER  # 2 does not divide blocks of 7 and 9
    factors = moved(MonarchFactors(*sizes, 4, factor=factor))
    assert isinstance(factors, MonarchFactors)
    plain = MonarchFactors(*sizes, 4)
    with torch.no_grad():
        for name in ("blkdiag1", "blkdiag2"):
            getattr(plain, name).copy_(blocks_of(factors, name))
    x = torch.randn(2, 5, sizes[0], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(factors(x), plain(x), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(factors.dense(), plain.dense(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(x.double() @ factors.dense().mT, factors(x).double(), atol=1e-3, rtol=1e-4)


@FACTORS
def test_gradients_are_those_of_the_formula(factor: dict[str, Any]) -> None:
    factors = moved(MonarchFactors(24, 32, 4, factor=factor)).double()
    x = torch.randn(3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(factors, (x,))
    assert torch.autograd.gradcheck(lambda *_: factors(x.detach()), tuple(factors.parameters()))


@FACTORS
@pytest.mark.parametrize("sizes", SIZES[:2], ids=str)
def test_starts_at_zero_and_no_leaf_is_stuck(sizes: tuple[int, int], factor: dict[str, Any]) -> None:
    torch.manual_seed(0)
    factors = MonarchFactors(*sizes, 4, factor=factor)
    leaves = dict(factors.named_parameters())
    zero = [name for name, leaf in leaves.items() if not leaf.any()]
    assert len(zero) == 1
    assert zero[0] in ("blkdiag2", "blkdiag2.u", "blkdiag2.b")
    for leaf in leaves.values():
        assert leaf.abs().max() <= 1
    x = torch.randn(7, sizes[0])
    assert not factors(x).any()
    optimizer = torch.optim.SGD(factors.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        (factors(x) - torch.ones(7, sizes[1])).square().mean().backward()
        reached = {name for name, leaf in leaves.items() if leaf.grad is not None and leaf.grad.any()}
        assert reached == (set(zero) if step == 0 else set(leaves))
        optimizer.step()


def test_the_start_of_a_leaf_depends_on_its_own_width() -> None:
    torch.manual_seed(0)
    first = KroneckerBlocks((64, 36, 100), None, zero=False)
    assert (first.a.shape, first.b.shape) == ((64, 6, 10), (64, 6, 10))
    low = LowRankBlocks((64, 36, 100), 4, zero=False)
    for leaf in (first.a, first.b, low.u, low.v):
        bound = leaf.shape[2] ** -0.5
        assert 0.98 * bound < float(leaf.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("out", "inputs", "a", "b", "count"),
    [(48, 48, (6, 6), (8, 8), 100), (144, 48, (12, 6), (12, 8), 168), (192, 48, (12, 6), (16, 8), 200)],
)
def test_kronecker_sizes(out: int, inputs: int, a: tuple[int, int], b: tuple[int, int], count: int) -> None:
    blocks = KroneckerBlocks((1, out, inputs), None, zero=False)
    assert (blocks.a.shape[1:], blocks.b.shape[1:]) == (a, b)
    assert sum(leaf.numel() for leaf in blocks.parameters()) == count


@pytest.mark.parametrize(("rank", "clipped"), [(3, 3), (6, 6), (50, 6)])
def test_low_rank_is_clipped_to_the_smaller_side(rank: int, clipped: int) -> None:
    blocks = LowRankBlocks(SHAPE, rank, zero=False)
    assert (blocks.u.shape, blocks.v.shape) == ((4, 8, clipped), (4, clipped, 6))
    x = torch.randn(4, 5, 6)
    assert torch.linalg.matrix_rank((blocks.u @ blocks.v)[0]) == clipped
    torch.testing.assert_close(multiply(x, blocks), torch.einsum("boi,bni->bno", blocks.u @ blocks.v, x))


@pytest.mark.parametrize("sizes", [(3, 2), (2, 4), (16, 1)])
def test_kronecker_sizes_that_do_not_divide_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="do not divide a block of 8 x 6"):
        make_blocks({"type": "kronecker", "sizes": list(sizes)}, SHAPE, zero=True)


def count(factor: dict[str, Any], blocks: int, **settings: Any) -> int:
    backbone = PointMAE()
    backbone.requires_grad_(False)
    MoST(blocks=blocks, factor=factor, **settings).attach(backbone)
    return sum(p.numel() for name, p in official_parameters(backbone).items() if ".most." in name)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("blocks", [8, 16, 32])
def test_low_rank_count_does_not_depend_on_the_blocks(rank: int, blocks: int) -> None:
    assert count({"type": "low_rank", "rank": rank}, blocks) == 59_904 * rank


@pytest.mark.parametrize(("blocks", "expected"), [(8, 54_528), (16, 56_448), (32, 54_528)])
def test_kronecker_count(blocks: int, expected: int) -> None:
    assert count(KRONECKER, blocks) == expected


@pytest.mark.parametrize("width", [384, 768])
@pytest.mark.parametrize("rank", [1, 5])
def test_low_rank_formula(width: int, rank: int) -> None:
    for inputs, outputs in ((width, width), (width, 3 * width), (4 * width, width)):
        factors = MonarchFactors(inputs, outputs, 8, factor={"type": "low_rank", "rank": rank})
        expected = rank * (inputs + outputs + 2 * min(inputs, outputs))
        assert sum(p.numel() for p in factors.parameters()) == expected


def test_keys_of_the_leaves() -> None:
    names = {}
    for factor in (LOW_RANK, KRONECKER):
        backbone = PointMAE(width=32, depth=1, heads=2, groups=8, group_size=8)
        Monarch(blocks=4, factor=factor, targets=("attention_in",)).attach(backbone)
        names[factor["type"]] = [n for n in official_parameters(backbone) if ".most." in n]
    start = "blocks.blocks.0.attn.qkv.most."
    assert names["low_rank"] == [f"{start}blkdiag{i}.{leaf}" for i in (1, 2) for leaf in "uv"]
    assert names["kronecker"] == [f"{start}blkdiag{i}.{leaf}" for i in (1, 2) for leaf in "ab"]
