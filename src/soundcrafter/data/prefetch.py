"""Results computed ahead of time by threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def prefetch(
    make: Callable[[int], T], steps: Iterable[int], workers: int, depth: int
) -> Generator[T, None, None]:
    """Yield make(step) for each step in order, computed ahead of time by threads.

    Threads are enough, because decoding and resampling release the interpreter lock. At most
    `depth` results are computed ahead. An exception in `make` is raised in place of its result.
    Closing the iterator cancels pending calls and waits for running ones. With workers=0 each
    result is computed on request. Raises ValueError for negative `workers` and a `depth` below 1.
    """
    if workers < 0 or depth < 1:
        raise ValueError(f"got workers {workers}, depth {depth}; at least 0 and 1")
    if workers == 0:
        return (make(step) for step in steps)
    return _prefetch(make, steps, workers, depth)


def _prefetch(
    make: Callable[[int], T], steps: Iterable[int], workers: int, depth: int
) -> Generator[T, None, None]:
    threads = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    pending: deque[Future[T]] = deque()
    upcoming = iter(steps)
    try:
        pending.extend(threads.submit(make, step) for step in islice(upcoming, depth))
        while pending:
            result = pending.popleft().result()
            pending.extend(threads.submit(make, step) for step in islice(upcoming, 1))
            yield result
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
