"""Work in other processes, none of which outlives this one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

import torch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
J = TypeVar("J")
R = TypeVar("R")

MOST = 4  # processes, where nothing is said: each holds a model of its own in memory


class Pool(Protocol[T_co]):
    """Processes that each have their own tools: `Workers`, or those of a cluster."""

    @property
    def processes(self) -> int: ...

    @property
    def threads(self) -> int:
        """Threads of each process."""
        ...

    def map(self, work: Callable[[T_co, J], R], jobs: Sequence[J]) -> Iterator[R]:
        """work(tools, job) of all jobs as they are done; `work` is importable, jobs and results
        pickle. What a job raises is raised here."""
        ...


@dataclass(frozen=True)
class Workers(Generic[T]):
    """Processes that each have their own tools, such as a loaded model."""

    processes: int
    threads: int  # of each process: results may depend on it in their last bits
    open_tools: Callable[[], T]  # importable, called once in each process

    def map(self, work: Callable[[T, J], R], jobs: Sequence[J]) -> Iterator[R]:
        """work(tools, job) of all jobs as they are done, begun in their order; `work` is
        importable, jobs and results pickle.

        What a job raises is raised here, and the other processes end with what they are doing.
        ValueError where one of them is killed.
        """
        with self.open() as pool:
            try:
                for done in as_completed([pool.submit(with_tools, work, job) for job in jobs]):
                    yield done.result()
            except BrokenProcessPool:
                raise ValueError(
                    "processes: one was killed, most often for want of memory; "
                    "the same command again goes on from here, with fewer --processes if need be"
                ) from None

    @contextmanager
    def open(self) -> Iterator[ProcessPoolExecutor]:
        """The processes, for calls of `with_tools`; they end with the `with`, at once if an error
        ends it, and where this process dies."""
        context = multiprocessing.get_context("spawn")
        lifeline, held = context.Pipe(duplex=False)
        settings = (lifeline, self.threads, self.open_tools)
        pool = ProcessPoolExecutor(self.processes, context, _begin, settings)
        try:
            yield pool
        except BaseException:
            held.close()  # whatever they are doing
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            held.close()
            lifeline.close()


def with_tools(work: Callable[[Any, J], R], job: J) -> R:
    """work(tools, job), in a process of `Workers`."""
    return work(_tools, job)


def share_cores(wanted: int | None, device: torch.device, jobs: int) -> tuple[int, int]:
    """The number of processes, and of threads for each, so that all cores have one thread.

    Where none is `wanted`: a process a core, but no more than MOST or than there are jobs; one on a
    GPU. Raises ValueError for less than 1.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"processes: got {wanted}; at least 1")
    cores = torch.get_num_threads()
    usual = max(min(cores, MOST, jobs), 1) if device.type == "cpu" else 1
    processes = wanted or usual
    return processes, max(cores // processes, 1)


_tools: Any = None  # of a worker process: opened as it begins, used by every job


def _begin(lifeline: Connection, threads: int, open_tools: Callable[[], Any]) -> None:
    global _tools
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and decides
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    _tools = open_tools()


def _end_with(lifeline: Connection) -> None:
    """End this process once the pipe's other end is closed, be it by the parent's death."""
    lifeline.poll(None)
    os._exit(1)
