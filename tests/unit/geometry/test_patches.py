"""Patches of serialized scenes: every row once, last patches filled up from the one before, scenes apart."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.geometry.patches import patch_tables, patches


def test_a_last_patch_is_filled_from_the_one_before() -> None:
    tables = patch_tables([10, 3], 4)
    assert tables.pad.tolist() == [*range(10), 6, 7, 10, 11, 12]
    assert tables.unpad.tolist() == [*range(10), 12, 13, 14]
    assert tables.starts.tolist() == [0, 4, 8, 12, 15]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 9])
def test_sizes_around_the_length(size: int) -> None:
    tables = patch_tables([size], 4)
    assert tables.pad[tables.unpad].tolist() == list(range(size))
    lengths = tables.starts.diff().tolist()
    assert lengths == ([size] if size <= 4 else [4] * -(-size // 4))


def test_rows_return_to_their_places() -> None:
    sizes = [10, 3, 4, 3, 9]
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
    order = torch.cat([torch.randperm(n, generator=generator) + s for n, s in zip(sizes, starts.tolist(), strict=True)])
    cut = patches(order, sizes, 4)
    assert [tuple(rows.shape) for rows in cut.rows] == [(2, 3), (3 + 1 + 3, 4)]
    assert torch.cat([rows.flatten() for rows in cut.rows])[cut.back].tolist() == list(range(sum(sizes)))
    scene = torch.arange(5).repeat_interleave(torch.tensor(sizes))
    assert all((scene[rows] == scene[rows][:, :1]).all() for rows in cut.rows)
