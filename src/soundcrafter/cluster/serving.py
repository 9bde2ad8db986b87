"""The server on a Ray cluster: replicas that share one queue."""

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from soundcrafter.hub import find_model
from soundcrafter.serve.app import create_app
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.settings import ServeSettings, read_tokens
from soundcrafter.serve.supervisor import Supervisor
from soundcrafter.store import open_folder

APP = "soundcrafter"
LOADING = 300.0  # seconds that a replica's worker may take to load its model
_BATCHES = "batches"  # what replicas report: batches that wait or are made
_REQUESTS = 1000  # at once in a replica; most of them wait
_LOOK = 1.0  # seconds


@serve.ingress()
class Replica:
    """The application and a worker, in a process that Ray starts, watches and replaces."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.store = JobStore(settings.database_url, settings.folder, max_queue=settings.max_queue)
        self.supervisor = Supervisor(settings, self.store)
        self._last_ready = time.monotonic()

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self.settings, self.store, self.supervisor)

    def check_health(self) -> None:
        """Raise RuntimeError if the worker does not come up; Ray then replaces the replica."""
        now = time.monotonic()
        if self.supervisor.is_ready:
            self._last_ready = now
        elif now - self._last_ready > LOADING:
            raise RuntimeError(f"no worker for {LOADING:g} s")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_for_queue` decides by."""
        counts = self.store.counts()
        return {_BATCHES: (counts["queued"] + counts["running"]) / self.settings.batch_size}


def replicas_for_queue(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """A replica for each batch that waits or is made: jobs wait in the queue, not in requests."""
    reported = (context.aggregated_metrics or {}).get(_BATCHES, {})
    wanted = math.ceil(max(reported.values(), default=0.0))
    least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return min(max(wanted, least), most), {}


def serve_on_ray(
    settings: ServeSettings,
    started: Callable[[str], None],
    *,
    most: int,
    replicas: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
) -> None:
    """Serve on the connected cluster until a signal ends it; `started` is called with the address.

    `replicas`: how many; None: 1 to `most`, by the length of the queue. Each has `cpus` and `gpus`.
    The folder and the token file must be the same for all machines, as must the model. Raises
    ValueError for settings that cannot work.
    """
    settings.check_access()
    if len(settings.devices) > 1:
        raise ValueError(f"device: got {settings.device}; each replica has one; see --workers")
    if settings.database is None or settings.database.startswith("sqlite"):
        raise ValueError(
            "--ray: requires a database for several machines, --database postgresql://..."
        )
    open_folder(find_model(settings.model)).require("clap_text", "vae", "unet", "vocoder")
    read_tokens(settings.token_file)
    JobStore(settings.database_url, settings.folder).close()  # refuses what cannot be used
    serve.start(http_options={"host": settings.host, "port": settings.port})
    options: dict[str, Any] = {"num_replicas": replicas}
    if replicas is None:
        policy = AutoscalingPolicy(policy_function=replicas_for_queue)
        scaling = AutoscalingConfig(min_replicas=1, max_replicas=most, policy=policy)
        options = {"autoscaling_config": scaling}
    deploy = serve.deployment(
        name=APP,
        max_ongoing_requests=_REQUESTS,
        graceful_shutdown_timeout_s=settings.grace_seconds + 5,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        **options,
    )
    ended = threading.Event()
    try:
        serve.run(deploy(Replica).bind(_for_replicas(settings)), name=APP, route_prefix="/")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        started(f"http://{settings.host}:{settings.port}")
        while not ended.wait(_LOOK):
            if not ray.is_initialized():
                raise ValueError("ray: the cluster is gone")
    finally:
        if ray.is_initialized():
            serve.delete(APP)  # other applications of the cluster stay


def _for_replicas(settings: ServeSettings) -> ServeSettings:
    """Settings of a replica, whose paths do not depend on the working folder."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute()) if Path(path).exists() else path  # or a hub name

    return replace(
        settings,
        studio=False,  # its pages have their state in one process, and would meet several
        folder=settings.folder.absolute(),
        token_file=None if settings.token_file is None else settings.token_file.absolute(),
        model=None if settings.model is None else absolute(settings.model),
        adapters={absolute(path): weight for path, weight in settings.adapters.items()},
    )
