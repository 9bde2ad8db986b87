"""Where a subject is measured: in this process, or in one of its own.

How a process has been told to keep freed memory changes the speed of all that runs in it; a peer is
measured where nothing of ours has run.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import torch

from soundcrafter.bench.meter import Request, Subject, count_flops, synchronize, timed

T = TypeVar("T")


class Station(Protocol):
    """A subject that is measured, by the names of its parts."""

    def parts(self) -> list[str]:
        """Those of PARTS that it has."""

    def flops(self, part: str) -> int:
        """Floating point operations of a part."""

    def seconds(self, part: str) -> float:
        """Seconds that a part takes."""

    def whole(self, steps: int | None = None) -> tuple[float, float]:
        """Seconds of one sound, of the request's or so many steps, and of it until the last
        sampling step is done."""


class Here:
    """A station in this process."""

    def __init__(self, subject: Subject, request: Request) -> None:
        self.subject, self.request = subject, request
        self.calls = subject.parts()

    def parts(self) -> list[str]:
        return list(self.calls)

    @torch.inference_mode()
    def flops(self, part: str) -> int:
        return count_flops(self.calls[part])

    @torch.inference_mode()
    def seconds(self, part: str) -> float:
        return timed(self.calls[part], self.subject.device)

    def whole(self, steps: int | None = None) -> tuple[float, float]:
        ticks = []

        def on_step() -> None:
            synchronize(self.subject.device)
            ticks.append(time.perf_counter())

        def make() -> None:
            self.subject.make(
                on_step, seconds=self.request.seconds, steps=steps or self.request.steps
            )

        began = time.perf_counter()
        return timed(make, self.subject.device), ticks[-1] - began


class OwnProcess:
    """A fresh process with as many threads, within a `with`."""

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(torch.get_num_threads(),),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """function(*arguments) there: an importable function, and arguments and result that pickle.
        ValueError where the process is killed."""
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise ValueError(
                "bench: a process that measures was killed; "
                "most often there is too little memory: try fewer --seconds"
            ) from None


def in_own_process(function: Callable[..., T], *arguments: object) -> T:
    """function(*arguments) in a fresh process, as `OwnProcess.call`."""
    with OwnProcess() as process:
        return process.call(function, *arguments)


class Elsewhere:
    """The station of the subject make(*arguments), in another process."""

    def __init__(
        self,
        process: OwnProcess,
        request: Request,
        make: Callable[..., Subject],
        *arguments: object,
    ) -> None:
        self._process = process
        process.call(_open, request, make, *arguments)

    def parts(self) -> list[str]:
        return cast(list[str], self._process.call(_ask, "parts"))

    def flops(self, part: str) -> int:
        return cast(int, self._process.call(_ask, "flops", part))

    def seconds(self, part: str) -> float:
        return cast(float, self._process.call(_ask, "seconds", part))

    def whole(self, steps: int | None = None) -> tuple[float, float]:
        return cast(tuple[float, float], self._process.call(_ask, "whole", steps))


_here: Here | None = None  # the station of a process that has one


def _open(request: Request, make: Callable[..., Subject], *arguments: object) -> None:
    global _here
    _here = Here(make(*arguments), request)


def _ask(what: str, *arguments: object) -> Any:
    return getattr(_here, what)(*arguments)
