"""Random views for voting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geopeft_cli.data.clouds import MemoryClouds
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.views import Views
from geopeft_cli.errors import UsageError

POINTS = [np.random.default_rng(i).normal(size=(size, 3)).astype(np.float32) for i, size in enumerate((90, 40, 20, 90))]
CLOUDS = MemoryClouds(POINTS, [0, 1, 0, 1], ["a", "b"])


def views(batch_size: int, sampling: str = "fps_random", augment: tuple[str, ...] = ()) -> Views:
    preparation = Preparation(30, "none", sampling, "keep")  # type: ignore[arg-type]
    return Views(CLOUDS, preparation, batch_size=batch_size, seed=5, augment=augment)


def seen(of: Views, number: int) -> torch.Tensor:
    return torch.cat([batch.points for batch in of.view(number)])


def test_the_batch_and_earlier_views_do_not_matter() -> None:
    whole, single = views(4, augment=("scale_translate",)), views(1, augment=("scale_translate",))
    first = seen(whole, 0)
    assert first.shape == (4, 30, 3)
    assert torch.equal(seen(single, 3), seen(whole, 3))
    assert torch.equal(seen(whole, 0), first)
    assert not torch.equal(seen(whole, 1), first)
    assert torch.cat([batch.labels for batch in single.view(0)]).tolist() == [0, 1, 0, 1]


def test_points_are_chosen_among_the_farthest() -> None:
    preparation = Preparation(30, "none", "fps", "keep")
    kept = {tuple(point) for point in POINTS[0][preparation.candidates([POINTS[0]])[0]].tolist()}
    assert len(kept) == 36  # 1.2 x 30
    of = views(2, "fps")
    drawn = [{tuple(point) for point in seen(of, number)[0].tolist()} for number in range(8)]
    assert all(len(points) == 30 and points <= kept for points in drawn)
    assert set.union(*drawn) == kept


@pytest.mark.parametrize(("sampling", "distinct"), [("random", 30), ("with_replacement", 25)])
def test_other_samplings_choose_among_all_points(sampling: str, distinct: int) -> None:
    of = views(4, sampling)
    drawn = [{tuple(point) for point in seen(of, number)[0].tolist()} for number in range(12)]
    assert len(set.union(*drawn)) > 80
    assert (len(drawn[0]) == distinct) if sampling == "random" else len(drawn[0]) < 30


def test_a_small_cloud_repeats_points() -> None:
    assert {tuple(point) for point in seen(views(4), 0)[2].tolist()} == {tuple(p) for p in POINTS[2].tolist()}


@pytest.mark.parametrize("name", ["rotate_y_batch", "nonsense"])
def test_augmentations_are_those_of_single_clouds(name: str) -> None:
    with pytest.raises(UsageError, match=f"evaluation.view_augment: cannot be {name}"):
        views(2, augment=(name,))
