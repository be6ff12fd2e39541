"""Farthest point sampling: the kernel to the index, ties, points near the origin, exhaustion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.sampling import farthest_point_sample

Picks = Callable[..., list[int]]
CASES = (
    "unit_1024_64",
    "unit_1024_512",
    "unit_2048_128",
    "all_300_300",
    "scaled0.1_1024_128",
    "scaled0.05_256_256",
    "duplicated_1024_600",
    "zero_padded_200_150",
    "start_at_origin_128_32",
)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("case", CASES)
def test_golden(parity_root: Path, case: str) -> None:
    folder = parity_root / "ops_fps_knn"
    recorded = load_file(folder / "io.safetensors")
    cases = json.loads((folder / "meta.json").read_text())["config"]["cases"]
    assert set(cases) == set(CASES)
    points, count = recorded[f"{case}.input"], cases[case]["m"]
    assert torch.equal(farthest_point_sample(points, count), recorded[f"{case}.fps"].long())
    assert torch.equal(farthest_point_sample(points, count, "keep"), recorded[f"{case}.fps_without_quirk"].long())


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("near_origin", ["skip", "keep"])
def test_agrees_with_the_kernel_written_out(cloud: Tensor, near_origin: str, farthest_points: Picks) -> None:
    count = min(cloud.shape[1], 48)
    expected = [farthest_points(one.numpy(), count, near_origin == "skip") for one in cloud]
    result = farthest_point_sample(cloud, count, near_origin)
    assert result.dtype == torch.int64
    assert result.tolist() == expected


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("size", [*range(1, 20), 255, 256, 257, 511, 512, 513, 1023, 1025])
def test_ties_of_every_block_size(size: int, farthest_points: Picks) -> None:
    """All points but the first are equally far: the second pick is the tie rule and nothing else."""
    cloud = torch.ones(size, 3)
    cloud[0] = 5
    count = min(3, size)
    assert farthest_point_sample(cloud[None], count)[0].tolist() == farthest_points(cloud.numpy(), count)


@pytest.mark.usefixtures("loops")
def test_the_edge_of_the_skipped_ball_is_compared_in_double(farthest_points: Picks) -> None:
    """Of two neighboring float32, 1e-3 as a double lies between: only the upper one may be picked."""
    edge = np.float32(1e-3)
    below = np.nextafter(edge, np.float32(0))
    x = np.arange(-40, 40).astype(np.float32) * np.float32(3.7e-9) + np.float32(0.0316227)
    y = np.arange(2000).astype(np.float32) * np.float32(1e-7)
    norm = x[:, None] * x[:, None] + y * y
    for value, second in ((edge, 1), (below, 2)):
        i, j = np.argwhere(norm == value)[0]
        cloud = torch.tensor([[5, 0, 0], [x[i], y[j], 0], [4, 0, 0]])
        assert farthest_point_sample(cloud[None], 2).tolist() == [[0, second]]
        assert farthest_points(cloud.numpy(), 2) == [0, second]


@pytest.mark.usefixtures("loops")
def test_exhausted_clouds_repeat_one_point() -> None:
    cloud = torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]]])
    picks = farthest_point_sample(cloud, 4)[0].tolist()
    assert picks[:3] == [0, 3, 2]
    assert picks[3] in (0, 2, 3)
    assert sorted(farthest_point_sample(cloud, 4, "keep")[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.usefixtures("loops")
def test_every_prefix_is_the_shorter_sample_and_clouds_are_independent() -> None:
    cloud = torch.randn(5, 300, 3, generator=torch.Generator().manual_seed(1))
    full = farthest_point_sample(cloud, 100)
    assert torch.equal(farthest_point_sample(cloud, 17), full[:, :17])
    assert torch.equal(torch.cat([farthest_point_sample(one[None], 100) for one in cloud]), full)


@pytest.mark.usefixtures("loops")
def test_inputs_of_other_kinds_and_untouched() -> None:
    cloud = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(2))
    before, expected = cloud.clone(), farthest_point_sample(cloud, 9)
    assert torch.equal(cloud, before)
    assert torch.equal(farthest_point_sample(cloud.double(), 9), expected)
    assert torch.equal(farthest_point_sample(cloud.requires_grad_(), 9), expected)
    strided = before.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(farthest_point_sample(strided, 9), expected)
    assert farthest_point_sample(torch.zeros(0, 4, 3), 2).shape == (0, 2)


@pytest.mark.parametrize(("shape", "count"), [((4, 3), 1), ((2, 4, 2), 1), ((2, 4, 3), 5), ((2, 4, 3), 0)])
def test_errors(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(ShapeError, match=r"expected|available"):
        farthest_point_sample(torch.zeros(shape), count)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_a_gpu() -> None:
    """Whole coordinates, so that no rounding can differ."""
    cloud = torch.randint(-50, 50, (4, 2000, 3), generator=torch.Generator().manual_seed(3)).float()
    assert torch.equal(farthest_point_sample(cloud.cuda(), 128).cpu(), farthest_point_sample(cloud, 128))
