"""Progress of long work, reported to a callback."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with (done, total) after each part of the work


def step_counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that adds to the steps done and reports them, with their total, to `progress`."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add
