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


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Clients of a server with settings, without a worker. Its queue is client.store."""
    opened: list[Any] = []

    def call(**options: Any) -> TestClient:
        settings = ServeSettings(folder=tmp_path / "serve", **options)
        store = JobStore(settings.database_url, settings.folder, max_queue=settings.max_queue)
        client: Any = TestClient(create_app(settings, store), raise_server_exceptions=False)
        client.store, client.settings = store, settings
        opened.append(client.__enter__())
        return client

    yield call
    for client in opened:
        client.__exit__(None, None, None)
        client.store.close()


@pytest.fixture
def run_worker(crafter: SoundCrafter) -> Iterator[Callable[[Any], None]]:
    """Starts a worker for a client's server."""
    stop, threads = threading.Event(), []

    def call(client: Any) -> None:
        worker = Worker(client.store, crafter, "test", client.settings)
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        threads.append(thread)

    yield call
    stop.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def client(make_client: Any, run_worker: Any) -> TestClient:
    """A client of a server with a worker."""
    made: TestClient = make_client()
    run_worker(made)
    return made
