"""Progress of a long measurement, reported to a callback."""

from collections.abc import Callable

from soundcrafter.options import Progress as Progress  # callback (done, total)


def step_counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that adds to the steps done and reports them, with their total, to `progress`."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add
