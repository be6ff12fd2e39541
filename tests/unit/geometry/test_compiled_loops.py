"""The compiled loops: when they are taken, that threads and missing caches change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from geopeft_cli.geometry import compiled
from geopeft_cli.geometry.grouping import Groups, group

numba = pytest.importorskip("numba")

CLOUD = torch.randint(-9, 9, (7, 700, 3), generator=torch.Generator().manual_seed(0)) / 8


@pytest.fixture
def fresh() -> Iterator[None]:
    compiled._compile.cache_clear()
    yield
    compiled._compile.cache_clear()


def same(left: Groups, right: Groups) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_taken_for_plain_tensors_on_the_cpu_only() -> None:
    assert compiled.usable(CLOUD)
    assert not compiled.usable(CLOUD, torch.nn.Parameter(CLOUD))
    assert not compiled.usable(CLOUD.to("meta"))
    assert not compiled.usable(FakeTensorMode().from_tensor(CLOUD))
    with compiled.disabled():
        assert not compiled.usable(CLOUD)
    assert compiled.usable(CLOUD)


def test_meta_and_fake_clouds_have_shapes() -> None:
    assert group(CLOUD.to("meta"), 4, 5).neighborhoods.shape == (7, 4, 5, 3)
    with FakeTensorMode() as mode:
        assert group(mode.from_tensor(CLOUD), 4, 5).neighborhoods.shape == (7, 4, 5, 3)


def test_without_numba_the_tensor_code_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = group(CLOUD, 40, 16)
    monkeypatch.setattr(compiled, "_numba", lambda: None)
    monkeypatch.delattr(compiled, "_compile")
    assert same(group(CLOUD, 40, 16), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    with compiled.disabled():
        expected = group(CLOUD, 40, 16)
    monkeypatch.setattr(compiled, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    started = []
    thread = compiled.Thread
    monkeypatch.setattr(compiled, "Thread", lambda **named: started.append(1) or thread(**named))
    assert same(group(CLOUD, 40, 16), expected)
    assert len(started) == min(threads, 7) - 1 + threads - 1


@pytest.mark.usefixtures("fresh")
def test_nowhere_to_write_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit
    refused = []

    def refuse(**options: Any) -> Any:
        if options.pop("cache", False):
            refused.append(1)
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    with compiled.disabled():
        expected = group(CLOUD, 5, 4)
    monkeypatch.setattr(numba, "njit", refuse)
    assert same(group(CLOUD, 5, 4), expected)
    assert len(refused) == 2
