"""Work on the machines of a Ray cluster: actors that each open their tools once."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from soundcrafter.files import one_line

T = TypeVar("T")
J = TypeVar("J")
R = TypeVar("R")

TRIES = 3  # of a job whose worker dies: a fault of a machine is rare, one of the job comes again
_MOST_BLOCKS = 10_000  # of a data set; more would only burden the driver


class LostJobs(ValueError):
    """Jobs without a result, because each of their workers died."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"ray: {count} jobs have no result: their workers died {TRIES} times, most often for "
            "want of memory; the same command again goes on from here, with fewer --workers if "
            "need be"
        )


@dataclass(frozen=True, kw_only=True)
class RayWorkers(Generic[T]):
    """Processes on a Ray cluster that each have their own tools, such as a loaded model."""

    processes: int  # at most
    threads: int  # of each process, and its CPUs: results may depend on it in their last bits
    open_tools: Callable[[], T]  # called once in each process
    gpus: float = 0  # of each process
    at_once: int = 1  # processes at the beginning: those that there is room for
    show_progress: bool = False  # with Ray's bar

    def map(self, work: Callable[[T, J], R], jobs: Sequence[J]) -> Iterator[R]:
        """work(tools, job) of all jobs as they are done; `work` is importable, jobs and results
        pickle.

        What a job raises is raised here. A job whose worker dies is done again, at most TRIES times
        in all; LostJobs at the end if there are any that killed all of their workers.
        """
        context = DataContext.get_current()
        context.enable_progress_bars = self.show_progress
        context.max_errored_blocks = -1  # a machine that is gone takes blocks along: done again
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # and not worth a traceback each
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        tries = _Tries.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        left, lost = dict(enumerate(jobs)), 0
        for _ in range(TRIES):
            if not left:
                break
            for answer in self._answers(work, left, tries):
                if answer.error is not None:
                    raise answer.error
                if left.pop(answer.number, None) is None:
                    continue
                if answer.is_lost:
                    lost += 1
                else:
                    yield answer.result
        if left or lost:
            raise LostJobs(len(left) + lost)

    def _answers(
        self, work: Callable[[T, J], R], jobs: Mapping[int, J], tries: Any
    ) -> "Iterator[_Answer]":
        """What the workers answer; some jobs of a machine that is gone have no answer."""
        items = [{"job": _Numbered(number, job)} for number, job in jobs.items()]
        data = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
        answers = data.map_batches(
            _Actor,
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=1, max_size=self.processes, initial_size=self.at_once
            ),
            fn_constructor_kwargs={
                "open_tools": self.open_tools,
                "work": work,
                "threads": self.threads,
                "folder": os.getcwd(),
                "tries": tries,
            },
            num_cpus=self.threads,
            num_gpus=self.gpus,
        )
        try:
            for row in answers.iter_rows():
                yield row["answer"]
        except RayError as error:
            raise ValueError(f"ray: {one_line(error)}") from None


@dataclass(frozen=True)
class _Numbered:
    number: int
    what: Any  # a job


@dataclass(frozen=True)
class _Answer:
    """What became of a job."""

    number: int
    result: Any = None
    error: Exception | None = None
    is_lost: bool = False


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Tries:
    """Counts how often each job has been begun. Ray does the job of a dead worker again without an
    end, also if it is the job that kills."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self._begun[number] += 1
        return self._begun[number]


class _Actor:
    """A process of `RayWorkers`."""

    def __init__(
        self,
        open_tools: Callable[[], Any],
        work: Callable[[Any, Any], Any],
        threads: int,
        folder: str,
        tries: Any,
    ) -> None:
        import torch

        self.work, self.tries = work, tries
        self.fault: Exception | None = None
        torch.set_num_threads(threads)
        try:
            if Path(folder).is_dir():  # then relative paths mean the same as for the driver
                os.chdir(folder)
            self.tools = open_tools()
        except Exception as error:  # raised by the driver, once
            self.fault = _portable(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[_Answer]]:
        (job,) = batch["job"]
        return {"answer": [self._answer(job)]}

    def _answer(self, job: _Numbered) -> _Answer:
        if self.fault is not None:
            return _Answer(job.number, error=self.fault)
        if ray.get(self.tries.begin.remote(job.number)) > TRIES:
            return _Answer(job.number, is_lost=True)
        try:
            return _Answer(job.number, self.work(self.tools, job.what))
        except Exception as error:  # raised by the driver
            return _Answer(job.number, error=_portable(error))


def _portable(error: Exception) -> Exception:
    """The error as one that pickles: others may need arguments that are gone."""
    if isinstance(error, ValueError | OSError):
        return ValueError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
