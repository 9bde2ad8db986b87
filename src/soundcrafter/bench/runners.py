"""Runners measure a subject in this process or in another one.

A peer is measured in another process because our settings for keeping freed memory change the speed
of everything in a process.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

import torch

from soundcrafter.bench.meters import count_flops, synchronize, timed
from soundcrafter.bench.workload import Subject, Workload
from soundcrafter.workers import Workers, with_tools

T = TypeVar("T")


class Runner(Protocol):
    """Measures a subject and its parts."""

    def parts(self) -> list[str]:
        """Return the names of its parts."""

    def flops(self, part: str) -> int:
        """Return the floating point operations of a part."""

    def seconds(self, part: str) -> float:
        """Return the seconds that a part takes."""

    def end_to_end(self, steps: int | None = None) -> tuple[float, float]:
        """Return the seconds to generate a sound, and the seconds until its last sampling step.

        `steps`: of sampling, by default those of the workload.
        """


class LocalRunner:
    """Measures in this process."""

    def __init__(self, subject: Subject, workload: Workload) -> None:
        self.subject, self.workload = subject, workload
        self.calls = subject.parts()

    def parts(self) -> list[str]:
        return list(self.calls)

    @torch.inference_mode()
    def flops(self, part: str) -> int:
        return count_flops(self.calls[part])

    @torch.inference_mode()
    def seconds(self, part: str) -> float:
        return timed(self.calls[part], self.subject.device)

    def end_to_end(self, steps: int | None = None) -> tuple[float, float]:
        ticks = []

        def on_step() -> None:
            synchronize(self.subject.device)
            ticks.append(time.perf_counter())

        def make() -> None:
            self.subject.make(
                on_step, seconds=self.workload.seconds, steps=steps or self.workload.steps
            )

        began = time.perf_counter()
        return timed(make, self.subject.device), ticks[-1] - began


class ProcessRunner:
    """Measures the subject make(*arguments) in the process of a pool from `own_process`. Raises
    what `make` raises."""

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        workload: Workload,
        make: Callable[..., Subject],
        *arguments: object,
    ) -> None:
        self._pool = pool
        self._do(_open, (workload, make, arguments))

    def parts(self) -> list[str]:
        return list(self._do(_call_runner, ("parts",)))

    def flops(self, part: str) -> int:
        return int(self._do(_call_runner, ("flops", part)))

    def seconds(self, part: str) -> float:
        return float(self._do(_call_runner, ("seconds", part)))

    def end_to_end(self, steps: int | None = None) -> tuple[float, float]:
        end_to_end, sampled = self._do(_call_runner, ("end_to_end", steps))
        return end_to_end, sampled

    def _do(self, work: Callable[[dict[str, Any], Any], T], job: object) -> T:
        return _do(self._pool, work, job)


def own_process() -> Workers[dict[str, Any]]:
    """Return one process with as many threads as this one, whose state is a dict."""
    return Workers(1, torch.get_num_threads(), dict)


def in_own_process(function: Callable[..., T], *arguments: object) -> T:
    """Call function(*arguments) in a fresh process with as many threads.

    The function is importable; arguments and result can be pickled. Raises ValueError if the
    process is killed.
    """
    with own_process().open() as pool:
        return _do(pool, _call, (function, arguments))


def _do(pool: ProcessPoolExecutor, work: Callable[[dict[str, Any], Any], T], job: object) -> T:
    try:
        return pool.submit(with_tools, work, job).result()
    except BrokenProcessPool:
        raise ValueError(
            "bench: a measuring process was killed, probably because memory ran out; "
            "try fewer --seconds"
        ) from None


# functions that run in the other process


def _open(state: dict[str, Any], job: tuple[Workload, Callable[..., Subject], Any]) -> None:
    workload, make, arguments = job
    assert not state, "one subject per process"
    state["runner"] = LocalRunner(make(*arguments), workload)


def _call_runner(state: dict[str, Any], job: tuple[Any, ...]) -> Any:
    what, *arguments = job
    return getattr(state["runner"], what)(*arguments)


def _call(state: dict[str, Any], job: tuple[Callable[..., T], tuple[object, ...]]) -> T:
    function, arguments = job
    return function(*arguments)
