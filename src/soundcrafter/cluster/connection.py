"""A connection to Ray: a cluster that is there, or one started on this machine."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

# read when Ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data

from soundcrafter.cluster.workers import RayWorkers
from soundcrafter.files import one_line

T = TypeVar("T")
AUTO, LOCAL = "auto", "local"  # the cluster that is there, else one started here; always the latter
_OBJECT_STORE = 200 * 2**20  # bytes: jobs and results are small, sounds go straight into files


@contextmanager
def connected(address: str = AUTO) -> Iterator[None]:
    """Connect to Ray for a while, without usage statistics and without a dashboard.

    `address` is HOST:PORT, "auto" for the cluster that RAY_ADDRESS names or this machine belongs
    to, or one started here if there is none, or "local" for one started here. A connection that
    this process already has is used as it is. Raises ValueError if there is no cluster at the
    address.
    """
    if ray.is_initialized():
        yield
        return
    if address not in (AUTO, LOCAL) and ":" not in address:
        raise ValueError(f"ray: got {address!r}; allowed: {AUTO}, {LOCAL}, HOST:PORT")
    try:
        _start() if address == LOCAL else _connect(address)
    except ConnectionError as error:
        if address != AUTO or os.environ.get("RAY_ADDRESS"):
            raise ValueError(f"ray: no cluster at {address}: {error}") from None
        _start()
    try:
        yield
    finally:
        ray.shutdown()


def _start() -> None:
    try:
        _connect(LOCAL, include_dashboard=False, object_store_memory=_OBJECT_STORE)
    except Exception as error:  # Ray raises nothing narrower where a machine is too busy
        raise ValueError(f"ray: cannot start on this machine: {one_line(error)}") from None


def _connect(address: str, **options: Any) -> None:
    ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **options)


def ray_workers(
    open_tools: Callable[[], T],
    *,
    device: str = "auto",
    workers: int | None = None,
    worker_cpus: int = 1,
) -> RayWorkers[T]:
    """Workers for the cluster that is connected: one per GPU, or as many as its CPUs allow.

    More `workers` than there is room for wait for machines that join. Raises ValueError for a
    number below 1, and if no machine has room for a worker.
    """
    for name, given in (("workers", workers), ("worker-cpus", worker_cpus)):
        if given is not None and given < 1:
            raise ValueError(f"{name}: got {given}; at least 1")
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(machine.get("GPU", 0) >= 1 for machine in machines)
    on_gpu = device.startswith("cuda") or (device == "auto" and has_gpus)
    room = 0
    for machine in machines:
        fits = int(machine.get("CPU", 0)) // worker_cpus
        room += min(fits, int(machine.get("GPU", 0))) if on_gpu else fits
    if room < 1:
        gpu = " and a GPU" if on_gpu else ""
        raise ValueError(f"ray: no machine of the cluster has {worker_cpus} CPUs{gpu} for a worker")
    return RayWorkers(
        processes=workers or room,
        threads=worker_cpus,
        open_tools=open_tools,
        gpus=1 if on_gpu else 0,
        at_once=min(workers or room, room),
        show_progress=sys.stderr.isatty(),
    )
