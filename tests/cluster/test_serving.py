"""The server on Ray: two replicas, one queue in PostgreSQL, one of them killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import psutil
import pytest
import soundfile

pytest.importorskip("fastapi", reason="needs the server: pip install .[serve]")

pytestmark = pytest.mark.long
REQUESTS = 100


@pytest.fixture
def server(nodes: Any, postgres: str, tiny_model: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the server, whose sounds are in tmp_path / "serve"."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--ray", nodes.address, "--workers", 2, "--port", port, "--database", postgres)
    options += ("--model", tiny_model, "--folder", tmp_path / "serve", "--batch-size", 2)
    options += ("--lost-seconds", 10, "--precision", "fp32", "--device", "cpu")
    command = [sys.executable, "-m", "soundcrafter", "serve", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip().removeprefix("serving at ")
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def replicas() -> list[psutil.Process]:
    """Those of this machine."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::ServeReplica:soundcrafter")
    ]


def wait_for(condition: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_requests_survive_a_killed_replica(server: httpx.Client, tmp_path: Path) -> None:
    assert server.get("/healthz").json()["status"] == "ok"
    assert len(replicas()) == 2
    jobs = []
    for seed in range(REQUESTS):
        request = {"prompt": "rain", "seconds": 0.4, "steps": 1, "candidates": 1, "seed": seed}
        answer = server.post("/v1/sounds", json=request)
        assert answer.status_code == 202
        jobs.append(answer.json()["id"])

    def files() -> list[Path]:
        return sorted((tmp_path / "serve" / "sounds").glob("*/0.wav"))

    def states() -> set[str]:
        return {server.get(f"/v1/sounds/{job}").json()["state"] for job in jobs}

    wait_for(lambda: len(files()) >= 10)
    os.kill(replicas()[0].pid, signal.SIGKILL)
    wait_for(lambda: len(files()) == REQUESTS and states() == {"done"})
    assert sorted(file.parent.name for file in files()) == sorted(jobs)
    waves = [soundfile.read(tmp_path / "serve" / "sounds" / job / "0.wav")[0] for job in jobs]
    assert len({wave.tobytes() for wave in waves}) == REQUESTS
    again = {"prompt": "rain", "seconds": 0.4, "steps": 1, "candidates": 1, "seed": 7, "wait": True}
    assert server.post("/v1/sounds", json=again).status_code == 200
    wait_for(lambda: len(replicas()) == 2)


@pytest.mark.parametrize(("batches", "replicas"), [(0.0, 1), (2.5, 3), (40.0, 8)])
def test_a_long_queue_asks_for_replicas(batches: float, replicas: int) -> None:
    from ray.serve.config import AutoscalingContext

    from soundcrafter.cluster.serving import replicas_for_queue

    context = Mock(AutoscalingContext)
    context.aggregated_metrics = {"batches": {"a": batches, "b": batches}}
    context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas = 1, 8
    assert replicas_for_queue(context) == (replicas, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--ray: requires a database"),
        (("--database", "sqlite:///a.sqlite"), "--ray: requires a database"),
        (("--database", "postgresql://x", "--device", "cpu,cpu"), "device: got cpu,cpu"),
        (("--database", "postgresql://x", "--host", "0.0.0.0"), "can be reached by other machines"),
    ],
)
def test_what_a_cluster_cannot_serve(
    run: Any, nodes: Any, tiny_model: Path, options: tuple[str, ...], message: str
) -> None:
    call = ("serve", "--ray", nodes.address, "--model", tiny_model, *options)
    assert message in run(*call).refused()
