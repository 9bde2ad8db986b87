"""A server in this process, with a worker in a thread and the tests' tiny model."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server: pip install .[serve]")

from fastapi.testclient import TestClient

from soundcrafter import SoundCrafter
from soundcrafter.serve.app import create_app
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.settings import ServeSettings
from soundcrafter.serve.worker import Worker


@pytest.fixture(scope="session")
def crafter(tiny_model: Path) -> SoundCrafter:
    return SoundCrafter.from_pretrained(tiny_model, "cpu", precision="fp32")


class Servers:
    """Servers in this process, each with a client and, if wanted, a worker in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stop, self._threads, self._opened = threading.Event(), [], []

    def client(self, **options: Any) -> TestClient:
        """A client of a server with settings, without a worker and, unless asked for, without the
        studio, which takes seconds to load. Its queue is client.store."""
        settings = ServeSettings(folder=self.folder, **{"studio": False} | options)
        store = JobStore(settings.database_url, settings.folder, max_queue=settings.max_queue)
        client: Any = TestClient(create_app(settings, store), raise_server_exceptions=False)
        client.store, client.settings = store, settings
        self._opened.append(client.__enter__())
        return client

    def run_worker(self, client: Any, crafter: SoundCrafter) -> None:
        """Start a worker for a client's server."""
        worker = Worker(client.store, crafter, "test", client.settings)
        self._threads.append(threading.Thread(target=worker.run, args=(self._stop,)))
        self._threads[-1].start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._opened:
            client.__exit__(None, None, None)
            client.store.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    found = Servers(tmp_path / "serve")
    yield found
    found.close()


@pytest.fixture
def make_client(servers: Servers) -> Callable[..., TestClient]:
    """Makes clients of a server with settings, without a worker."""
    return servers.client


@pytest.fixture
def run_worker(servers: Servers, crafter: SoundCrafter) -> Callable[[Any], None]:
    """Starts a worker for a client's server."""
    return lambda client: servers.run_worker(client, crafter)


@pytest.fixture(scope="module")
def client(tmp_path_factory: Any, crafter: SoundCrafter) -> Iterator[TestClient]:
    """A client of a server with a worker, which the tests of a file share."""
    found = Servers(tmp_path_factory.mktemp("shared") / "serve")
    made = found.client()
    found.run_worker(made, crafter)
    yield made
    found.close()


@pytest.fixture(scope="module")
def idle_client(tmp_path_factory: Any) -> Iterator[TestClient]:
    """A client of a server without a worker, for what is refused at once."""
    found = Servers(tmp_path_factory.mktemp("idle") / "serve")
    yield found.client()
    found.close()
