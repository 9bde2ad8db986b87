"""Real processes that are killed: every job that was accepted is made once, and as it would be."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile
import torch

from soundcrafter.files import locked
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.requests import SoundRequest, new_job
from soundcrafter.serve.settings import ServeSettings
from soundcrafter.serve.supervisor import Supervisor
from soundcrafter.serve.worker import Worker

JOBS = 14
LONG = {"prompt": "rain", "seconds": 30, "steps": 100, "count": 8, "seed": 1}


class Server:
    """`soundcrafter serve` as a process."""

    def __init__(self, launch: Any, folder: Path, model: Path, *options: str) -> None:
        command = ["serve", "--port", "0", *options, "--model", model, "--folder", folder]
        command += ["--precision", "fp32", "--device", "cpu", "--batch-size", "2", "--no-studio"]
        # as many threads as here: their number changes rounding
        threads = str(torch.get_num_threads())
        self.process = launch(*command, fork_workers=False, OMP_NUM_THREADS=threads)
        self.address = self.process.stdout.readline().strip().removeprefix("serving at ")

    def worker(self) -> psutil.Process:
        """The worker's process; the other child of the server tracks resources."""
        children = psutil.Process(self.process.pid).children()
        (found,) = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return found

    def end(self, number: int, timeout: float = 30) -> int:
        self.process.send_signal(number)
        return int(self.process.wait(timeout))


@pytest.fixture
def start(launch: Any, tiny_model: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def call(folder: Path, *options: str) -> Server:
        started.append(Server(launch, folder, tiny_model, *options))
        return started[-1]

    yield call
    for server in started:
        server.process.kill()


def filled(folder: Path) -> tuple[JobStore, list[str]]:
    """A queue with jobs of two shapes that wait."""
    settings = ServeSettings(folder=folder, batch_size=2)
    store = JobStore(settings.database_url, folder)
    ids = []
    for number in range(JOBS):
        seconds = 0.3 if number % 3 else 0.5
        request = SoundRequest(prompt=f"rain {number}", seconds=seconds, steps=20, seed=number)
        ids.append(store.submit(new_job(request, settings, lambda _: None)).id)
    return store, ids


def wait_for(count: int, store: JobStore, seconds: float = 60) -> None:
    """Wait until so many jobs are done."""
    deadline = time.monotonic() + seconds
    while store.counts()["done"] < count:
        assert time.monotonic() < deadline, store.counts()
        time.sleep(0.02)


def samples(store: JobStore, job: str) -> np.ndarray:
    return soundfile.read(store.sound_file(job, 0), dtype="int32")[0]


def test_kills_lose_nothing_and_change_nothing(start, crafter, tmp_path):
    undisturbed, expected = filled(tmp_path / "undisturbed")
    worker = Worker(undisturbed, crafter, "w", ServeSettings(folder=tmp_path, batch_size=2))
    while worker.run_once():
        pass
    store, ids = filled(tmp_path / "disturbed")
    server = start(tmp_path / "disturbed")
    wait_for(2, store)
    server.worker().kill()
    wait_for(5, store)
    orphan = server.worker()
    server.end(signal.SIGKILL)
    orphan.wait(5)  # it does not outlive the server
    done = store.counts()["done"]
    assert 5 <= done < JOBS
    (tmp_path / "disturbed" / "uploads" / ".incoming-x").mkdir()
    server = start(tmp_path / "disturbed", "--grace-seconds", "1")
    wait_for(JOBS, store)
    assert store.counts()["failed"] == 0
    for before, after in zip(expected, ids, strict=True):
        assert np.array_equal(samples(undisturbed, before), samples(store, after))
    assert not [*(store.folder / "uploads").iterdir()]
    assert {path.name for path in (store.folder / "sounds").iterdir()} == set(ids)
    check_client_that_goes(server, store)
    check_signal(server, store)


def check_client_that_goes(server: Server, store: JobStore) -> None:
    """What a client waits for is cancelled if it goes."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/v1/sounds", json=LONG | {"wait": True}, timeout=0.5)
    (job, *_) = store.list()
    gone = store.wait(job.id, 20)
    assert gone is not None
    assert gone.state == "cancelled"


def check_signal(server: Server, store: JobStore) -> None:
    """A signal ends the server soon, and puts what it was making back into the queue."""
    with httpx.Client(base_url=server.address, timeout=30) as client:
        job = client.post("/v1/sounds", json=LONG).json()["id"]
        running = store.wait(job, 30, until=lambda found: found.progress > 0)
        assert running is not None
        assert running.state == "running"
        answers: list[Any] = []

        def wait() -> None:
            answers.append(client.post("/v1/sounds", json=LONG | {"wait": True}))

        waiting = threading.Thread(target=wait)
        waiting.start()
        store.wait(job, 0.5)
        began = time.monotonic()
        assert server.end(signal.SIGTERM, 10) == 0
        assert time.monotonic() - began < 8
        waiting.join()
    assert answers[0].status_code == 202  # it waits in the queue
    assert (store.counts()["queued"], store.counts()["running"]) == (2, 0)


def test_a_short_job_is_finished_before_the_workers_stop(fork_workers, tiny_model, tmp_path):
    settings = ServeSettings(folder=tmp_path, model=str(tiny_model), device="cpu")
    store = JobStore(settings.database_url, tmp_path)
    supervisor = Supervisor(settings, store)
    request = SoundRequest(prompt="rain", seconds=5, steps=30, seed=1)
    jobs = [store.submit(new_job(request, settings, lambda _: None)).id for _ in range(9)]
    supervisor.start()
    store.wait(jobs[0], 30, until=lambda found: found.progress > 0)
    assert supervisor.is_ready
    supervisor.stop()
    counts = store.counts()
    assert counts["done"] in (4, 8)  # the batch that was begun, and no other
    assert counts["queued"] == len(jobs) - counts["done"]


def test_two_servers_do_not_share_a_folder(run, tiny_model, tmp_path):
    with locked(tmp_path):
        ended = run("serve", "--model", tiny_model, "--folder", tmp_path, "--port", 0)
    assert "is writing to it" in ended.refused()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "missing"], "missing"),
        (["--host", "0.0.0.0"], "--token-file"),
        (["--device", "abacus"], "abacus"),
        (["--token-file", "missing"], "missing"),
        (["--database", "mysql://x"], "allowed: sqlite, postgresql"),
        (["--max-count", "0"], "max_count"),
    ],
)
def test_settings_that_cannot_work_are_refused(run, tmp_path, options, message):
    ended = run("serve", "--folder", tmp_path / "serve", "--port", 0, *options)
    assert message in ended.refused()
