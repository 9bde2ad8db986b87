"""Work on the machines of a Ray cluster: actors that each open their tools once."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray.data
from ray.data import ActorPoolStrategy, DataContext

T = TypeVar("T")
J = TypeVar("J")
R = TypeVar("R")

TRIES = 3  # of a job whose worker dies: a fault of the machine is rare, one of the job comes again
_MOST_BLOCKS = 10_000  # of a data set; more would only burden the driver

_log = logging.getLogger(__name__)


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
    """Actors on a Ray cluster that each have their own tools, such as a loaded model."""

    processes: int  # at most
    threads: int  # of each process, which has as many CPUs: results may depend on it in their bits
    open_tools: Callable[[], T]  # called once in each process
    gpus: float = 0  # of each process
    at_once: int = 1  # processes at the beginning: those that there is room for
    show_progress: bool = False  # with Ray's bar

    def map(self, work: Callable[[T, J], R], jobs: Sequence[J]) -> Iterator[R]:
        """work(tools, job) of all jobs as they are done; `work` is importable, jobs and results
        pickle.

        What a job raises is raised here. A job whose worker dies is done again by another, at most
        TRIES times; LostJobs at the end if there are any that killed all of their workers.
        """
        left = dict(enumerate(jobs))
        for turn in range(TRIES):
            if not left:
                return
            # later on, a worker has one job at a time, so that none dies with another
            for number, result in self._pass(work, left, alone=turn > 0):
                if left.pop(number, None) is not None:
                    yield result
            if left:
                _log.warning("%d jobs were lost with their workers", len(left))
        if left:
            raise LostJobs(len(left))

    def _pass(
        self, work: Callable[[T, J], R], jobs: Mapping[int, J], *, alone: bool
    ) -> Iterator[tuple[int, R]]:
        """Do all jobs once; those whose worker dies are left out."""
        context = DataContext.get_current()
        context.enable_progress_bars = self.show_progress
        context.max_errored_blocks = -1  # jobs that are lost are missed by `map`
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # and not worth a traceback each
        items = [{"job": _Numbered(number, job)} for number, job in jobs.items()]
        blocks = len(items) if alone else min(len(items), _MOST_BLOCKS)
        rows = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            _Actor,
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=self.processes,
                initial_size=self.at_once,
                max_tasks_in_flight_per_actor=1 if alone else None,
            ),
            fn_constructor_kwargs={
                "open_tools": self.open_tools,
                "work": work,
                "threads": self.threads,
                "folder": os.getcwd(),
            },
            num_cpus=self.threads,
            num_gpus=self.gpus,
            ray_remote_args_fn=_remote_options,
        )
        for row in rows.iter_rows():
            answer: _Numbered = row["answer"]
            if isinstance(answer.what, Exception):
                raise answer.what
            yield answer.number, answer.what


@dataclass(frozen=True)
class _Numbered:
    """A job, or its result or error."""

    number: int
    what: Any


class _Actor:
    """A process of `RayWorkers`."""

    def __init__(
        self, open_tools: Callable[[], Any], work: Callable[..., Any], threads: int, folder: str
    ) -> None:
        import torch

        self.work, self.fault = work, None
        torch.set_num_threads(threads)
        try:
            if Path(folder).is_dir():  # then relative paths mean the same as for the driver
                os.chdir(folder)
            self.tools = open_tools()
        except Exception as error:  # raised here, Ray would try for ever
            self.fault = _portable(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[_Numbered]]:
        (job,) = batch["job"]
        answer = self.fault
        if answer is None:
            try:
                answer = self.work(self.tools, job.what)
            except Exception as error:  # raised by the driver
                answer = _portable(error)
        return {"answer": [_Numbered(job.number, answer)]}


def _remote_options() -> dict[str, Any]:
    return {"max_task_retries": 0}  # Ray's own have no end


def _portable(error: Exception) -> Exception:
    """The error as one that pickles: others may need arguments that are gone."""
    if isinstance(error, ValueError | OSError):
        return ValueError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
