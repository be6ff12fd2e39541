"""Work done one step ahead in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(tasks: Iterable[Callable[[], T]], ahead: int = 1) -> Generator[T, None, None]:
    """The results of ``tasks`` in order, while up to ``ahead`` further ones are being worked on.

    An exception in a task is raised where its result is asked for. Closing the iterator, or an exception that passes
    through it, ends the thread: waiting tasks are dropped, the one under way is finished. At most ``ahead`` results are
    held besides the one that was given out last.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="geopeft-prefetch")
    pending: deque[Future[T]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(task))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
