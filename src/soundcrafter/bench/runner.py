"""What runs a subject that is measured: this process, or another.

How a process has been told to keep freed memory changes the speed of all that runs in it, so that
`bench` measures a peer where nothing of ours has run.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

import torch

from soundcrafter.bench.meter import Request, Subject, count_flops, synchronize, timed
from soundcrafter.workers import Workers, with_tools

T = TypeVar("T")


class Runner(Protocol):
    """Measures a subject, by the names of its parts."""

    def parts(self) -> list[str]:
        """Those of PARTS that it has."""

    def flops(self, part: str) -> int:
        """Floating point operations of a part."""

    def seconds(self, part: str) -> float:
        """Seconds that a part takes."""

    def whole(self, steps: int | None = None) -> tuple[float, float]:
        """Seconds of one sound, of the request's or so many steps, and of it until the last
        sampling step is done."""


class LocalRunner:
    """Measures in this process."""

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


class ProcessRunner:
    """Measures in another process, the only one of a pool of `own_process`, the subject
    make(*arguments). What goes wrong as it is made is raised here."""

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        request: Request,
        make: Callable[..., Subject],
        *arguments: object,
    ) -> None:
        self._pool = pool
        self._do(_open, (request, make, arguments))

    def parts(self) -> list[str]:
        return list(self._do(_ask, ("parts",)))

    def flops(self, part: str) -> int:
        return int(self._do(_ask, ("flops", part)))

    def seconds(self, part: str) -> float:
        return float(self._do(_ask, ("seconds", part)))

    def whole(self, steps: int | None = None) -> tuple[float, float]:
        whole, sampled = self._do(_ask, ("whole", steps))
        return whole, sampled

    def _do(self, work: Callable[[dict[str, Any], Any], T], job: object) -> T:
        return _do(self._pool, work, job)


def own_process() -> Workers[dict[str, Any]]:
    """One process with as many threads as this one has; its tools are what it keeps by name."""
    return Workers(1, torch.get_num_threads(), dict)


def in_own_process(function: Callable[..., T], *arguments: object) -> T:
    """function(*arguments) in a fresh process with as many threads: an importable function, and
    arguments and result that pickle. ValueError where the process is killed."""
    with own_process().open() as pool:
        return _do(pool, _call, (function, arguments))


def _do(pool: ProcessPoolExecutor, work: Callable[[dict[str, Any], Any], T], job: object) -> T:
    try:
        return pool.submit(with_tools, work, job).result()
    except BrokenProcessPool:
        raise ValueError(
            "bench: a process that measures was killed; "
            "most often there is too little memory: try fewer --seconds"
        ) from None


# what is done in the other process, by the things that it keeps


def _open(kept: dict[str, Any], job: tuple[Request, Callable[..., Subject], Any]) -> None:
    request, make, arguments = job
    assert not kept, "one subject a process"
    kept["runner"] = LocalRunner(make(*arguments), request)


def _ask(kept: dict[str, Any], job: tuple[Any, ...]) -> Any:
    what, *arguments = job
    return getattr(kept["runner"], what)(*arguments)


def _call(kept: dict[str, Any], job: tuple[Callable[..., T], tuple[object, ...]]) -> T:
    function, arguments = job
    return function(*arguments)
