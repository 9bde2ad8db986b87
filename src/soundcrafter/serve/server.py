"""Running the server: checks first, then workers and HTTP, and a graceful stop."""

import logging
import signal
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Any

import uvicorn

from soundcrafter.device import choose_device
from soundcrafter.files import locked, make_folder
from soundcrafter.hub import find_model
from soundcrafter.precision import choose_precision
from soundcrafter.serve.app import create_app
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.settings import ServeSettings
from soundcrafter.serve.supervisor import Supervisor
from soundcrafter.serve.uploads import remove_incoming
from soundcrafter.store import open_folder


class _Server(uvicorn.Server):
    """Tells the workers of a signal at once, and where it listens."""

    def __init__(
        self, config: uvicorn.Config, supervisor: Supervisor, started: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self.supervisor, self._started = supervisor, started

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own would raise the signal again at the end, and so fail
        self.supervisor.begin_stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._started(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def serve(settings: ServeSettings, started: Callable[[str], None]) -> bool:
    """Serve until a signal ends it; `started` is called with the address.

    Returns whether it could start. Raises ValueError for settings that cannot work.
    """
    settings.check_access()
    open_folder(find_model(settings.model)).require("clap_text", "vae", "unet", "vocoder")
    for name in settings.devices:
        choose_precision(settings.precision, choose_device(name))
    make_folder(settings.folder)
    # a database of its own is used by one server; another may serve several
    with locked(settings.folder) if settings.database is None else nullcontext():
        store = JobStore(settings.database_url, settings.folder, max_queue=settings.max_queue)
        if settings.database is None:  # no other server uses the folder
            remove_incoming(settings.uploads)
        supervisor = Supervisor(settings, store)
        config = uvicorn.Config(
            create_app(settings, store, supervisor),
            host=settings.host,
            port=settings.port,
            log_level=logging.WARNING,
            server_header=False,
            timeout_keep_alive=75,  # longer than proxies keep theirs
            timeout_graceful_shutdown=round(settings.grace_seconds),
        )
        server = _Server(config, supervisor, started)
        try:
            server.run()
        finally:
            supervisor.stop()
            store.close()
        return server.started
