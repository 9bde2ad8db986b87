"""Options of commands that can run on a Ray cluster."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from soundcrafter.cli.evaluate_options import HoldingCommand

if TYPE_CHECKING:
    from soundcrafter.cluster.workers import RayWorkers

T = TypeVar("T")
_EVERY = 30.0  # seconds between lines of progress
_HERE = "auto"  # the address where none is given

RayOption = Annotated[
    str | None,
    typer.Option(
        help="Run on Ray: HOST:PORT, local, or nothing for this machine's cluster, started if "
        "there is none.",
        metavar="[ADDRESS]",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes on Ray. Default: one per GPU, else as many as its CPUs allow."),
]
WorkerCpusOption = Annotated[
    int | None, typer.Option(help="CPUs, and threads, of a process on Ray. Default 1.")
]


class RayCommand(TyperCommand):
    """A command whose --ray needs no address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_address(args))


class HoldingRayCommand(HoldingCommand):
    """Such a command that holds its --out, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_address(args))


def _with_address(args: list[str]) -> list[str]:
    following = [*args, "-"][1:]
    return [
        f"--ray={_HERE}" if arg == "--ray" and after.startswith("-") else arg
        for arg, after in zip(args, following, strict=True)
    ]


@dataclass(frozen=True)
class RayOptions:
    """What --ray, --workers and --worker-cpus ask for."""

    address: str
    workers: int | None
    worker_cpus: int

    @classmethod
    def of(
        cls, ray: str | None, workers: int | None, worker_cpus: int | None
    ) -> "RayOptions | None":
        """None without --ray. Raises ValueError for options that need it."""
        if ray is None:
            if workers is not None or worker_cpus is not None:
                raise ValueError("--workers and --worker-cpus require --ray")
            return None
        return cls(ray, workers, 1 if worker_cpus is None else worker_cpus)

    @contextmanager
    def open(self, open_tools: Callable[[], T], device: str) -> "Iterator[RayWorkers[T]]":
        """Workers on the cluster that open their own tools. ValueError where Ray is missing."""
        try:
            from soundcrafter.cluster.connection import connected, ray_workers
        except ModuleNotFoundError as error:
            raise ValueError(
                f"--ray: needs {error.name}; install it with: pip install 'soundcrafter[ray]'"
            ) from None
        # Ray prints what befalls its machines
        with connected(self.address), redirect_stdout(sys.stderr):
            yield ray_workers(
                open_tools, device=device, workers=self.workers, worker_cpus=self.worker_cpus
            )


@contextmanager
def optional_workers(
    ray: RayOptions | None, open_tools: Callable[[], T], device: str
) -> "Iterator[RayWorkers[T] | None]":
    """The workers that `ray` asks for, or None."""
    if ray is None:
        yield None
        return
    with ray.open(open_tools, device) as workers:
        yield workers


def progress_lines(what: str, show: bool = True) -> Callable[[int, int], None]:
    """A callback (done, total) that prints a line to stderr now and then, and at the end."""
    last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        if show and (done == total or time.monotonic() - last > _EVERY):
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr)

    return advance
