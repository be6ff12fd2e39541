"""Working ahead, but not far."""

from __future__ import annotations

import time
import weakref

import pytest

from geopeft_cli.data.prefetch import prefetched


class Result:
    pass


@pytest.mark.parametrize("ahead", [1, 3])
def test_few_results_are_held_however_slow_the_loop_is(ahead: int) -> None:
    alive: weakref.WeakSet[Result] = weakref.WeakSet()

    def make() -> Result:
        result = Result()
        alive.add(result)
        return result

    most = 0
    for _result in prefetched((make for _ in range(12)), ahead):
        time.sleep(0.005)
        most = max(most, len(alive))
    assert most == ahead + 1
