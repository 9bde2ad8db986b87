"""The worker processes of a server: started, restarted when they die, stopped with it."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import sqlalchemy as sa

from soundcrafter.files import one_line
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.settings import LOG_FORMAT, ServeSettings

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a dead worker is replaced
HEALTHY = 60.0  # seconds of life after which the pause is short again
NICE = 5  # workers make way for answers, where they share the processor
_LOOK = 0.2  # seconds
_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps a worker process alive on each device."""

    def __init__(self, settings: ServeSettings, store: JobStore) -> None:
        self.settings, self.store = settings, store
        self.keepers = [_Keeper(settings, store, device) for device in settings.devices]
        self._deadline: float | None = None  # of the running jobs, once it is stopping
        self._stopped = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Whether a worker has loaded its model."""
        return any(keeper.is_ready for keeper in self.keepers)

    @property
    def is_stopping(self) -> bool:
        """Whether no job is begun any more."""
        return self._deadline is not None

    def start(self) -> None:
        """Put jobs of workers that are gone back into the queue, and start the workers."""
        # nobody else uses the database in the folder, which is locked
        lost = 0 if self.settings.database is None else self.settings.lost_seconds
        self.store.requeue_lost(lost)
        for keeper in self.keepers:
            keeper.thread.start()
        threading.Thread(target=self._requeue_lost, daemon=True).start()

    def begin_stop(self) -> None:
        """Begin no new jobs; those in progress have `grace_seconds`."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self.settings.grace_seconds
            for keeper in self.keepers:
                keeper.stop.set()

    def stop(self) -> None:
        """End the workers; jobs that are not done by the deadline go back into the queue."""
        self.begin_stop()
        assert self._deadline is not None
        self._stopped.set()
        for keeper in self.keepers:
            keeper.end(self._deadline)

    def _requeue_lost(self) -> None:
        lost = self.settings.lost_seconds
        while not self._stopped.wait(lost / 4):
            with _database_errors():
                self.store.requeue_lost(lost)


class _Keeper:
    """Keeps one worker alive."""

    def __init__(self, settings: ServeSettings, store: JobStore, device: str) -> None:
        self.settings, self.store, self.device = settings, store, device
        self.stop = threading.Event()
        self.is_ready = False
        self.process: Any = None
        self.name = ""
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def end(self, deadline: float) -> None:
        """Wait for the worker's job until the deadline, then kill it."""
        if self.thread.is_alive():
            self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join()
        if self.name:
            with _database_errors():  # the next server puts them back
                self.store.hand_back(self.name)

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self.stop.is_set():
            began = time.monotonic()
            self._run()
            self.is_ready = False
            if self.stop.is_set():
                return
            buried = self._bury()
            if time.monotonic() - began > HEALTHY:
                pause = FIRST_PAUSE
            _log.error("a worker died; %d jobs wait for another, in %g s", buried, pause)
            self.stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _bury(self) -> int:
        """Put the jobs of the worker back, as soon as the database can be used."""
        while not self.stop.is_set():
            with _database_errors():
                return self.store.bury(self.name)
            self.stop.wait(FIRST_PAUSE)
        return 0

    def _run(self) -> None:
        """Run a worker until it ends."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.name = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:12]}"
        arguments = (theirs, self.settings, self.device, self.name)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        told = False
        while self.process.is_alive():
            if self.stop.is_set() and not told:
                _send(ours, "stop")
                told = True
            try:
                if ours.poll(_LOOK):
                    self.is_ready = ours.recv_bytes() == b"ready"
            except (EOFError, OSError):
                break
        self.process.join()
        ours.close()


@contextmanager
def _database_errors() -> Iterator[None]:
    """Log errors of the database, which may work again later."""
    try:
        yield
    except sa.exc.OperationalError as error:
        _log.error("database: %s", one_line(error))


def _send(pipe: Connection, text: str) -> None:
    try:
        pipe.send_bytes(text.encode())
    except OSError:
        _log.debug("the worker has ended")


def _work(server: Connection, settings: ServeSettings, device: str, name: str) -> None:
    """What a worker process does. It never outlives the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server hears it too, and decides
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICE)
    stop = threading.Event()
    threading.Thread(target=_listen, args=(server, stop), daemon=True).start()
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.serve.worker import Worker

    store = JobStore(settings.database_url, settings.folder)
    try:
        adapters = dict(settings.adapters)
        model = SoundCrafter.from_pretrained(settings.model, device, adapters, settings.precision)
    except ValueError as error:
        _log.error("%s", one_line(error))
        os._exit(1)
    _send(server, "ready")
    Worker(store, model, name, settings).run(stop)
    store.close()
    os._exit(0)  # torch's threads would be taken down one by one, for seconds


def _listen(server: Connection, stop: threading.Event) -> None:
    """Stop when the server says so; end at once when it is gone."""
    try:
        while server.recv_bytes() != b"stop":
            pass
        stop.set()
        server.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
