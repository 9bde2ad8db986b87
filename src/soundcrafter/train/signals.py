"""SIGINT and SIGTERM during a training: the current step finishes, and a checkpoint is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended a training; its last checkpoint is of `step`.

    A KeyboardInterrupt, so that a script ends too instead of going on to its next stage.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"interrupted at step {step}; run the same command to resume")
        self.step = step
        self.exit_code = 128 + number  # as a shell reports a process that the signal ended


class StopRequest:
    """Records the stop signal, if any."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._step: int | None = None

    def handle(self, number: int, frame: object) -> None:
        self.number = number
        self._raise()

    @contextmanager
    def at_once(self, step: int) -> Iterator[None]:
        """Inside this block a signal interrupts at once; `step` has a checkpoint."""
        self._step = step
        try:
            self._raise()
            yield
        finally:
            self._step = None

    def _raise(self) -> None:
        if self.number is not None and self._step is not None:
            step, self._step = self._step, None
            raise TrainingInterrupted(step, self.number)


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Record SIGINT and SIGTERM instead of obeying at once, so that the current step finishes."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, stop.handle) for name in names}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
