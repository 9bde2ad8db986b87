"""The server under load: many clients at once.

    python benchmarks/serve_load.py                       # make load
    python benchmarks/serve_load.py --clients 50 --seconds 5 --steps 25

Starts `soundcrafter serve` with the bundled model, first measures `generate` in batches of the same
size in this process, then lets --clients clients each submit a job, follow it and fetch its sound.
A client asks for its job with `wait`, so that the server answers when it has ended; one in ten asks
again and again in place of that (`status`). Prints the latencies of API calls while the queue is
full, the throughput beside that of `generate`, peak memory, and whether each accepted job was made
exactly once.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch

from soundcrafter import SoundCrafter
from soundcrafter.bench.machine import machine_facts

BATCH = 4
ARRIVAL = 10.0  # seconds over which the clients come
_POLLING = 10  # one in so many clients asks again and again
_POLL = 2.0  # seconds between two of its questions
_WAIT = 30  # seconds that the others let the server wait


class Server:
    """`soundcrafter serve` as a process, and the most memory that it and its worker take."""

    def __init__(self, folder: Path, model: str | None, queue: int) -> None:
        command = [sys.executable, "-m", "soundcrafter", "serve", "--port", "0", "--folder"]
        command += [str(folder), "--max-queue", str(queue), "--batch-size", str(BATCH)]
        command += [] if model is None else ["--model", model]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().removeprefix("serving at ")
        self.memory: Counter[str] = Counter()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        server = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            try:
                for name, processes in (("server", [server]), ("worker", server.children())):
                    most = max((p.memory_info().rss for p in processes), default=0)
                    self.memory[name] = max(self.memory[name], most)
            except psutil.NoSuchProcess:
                return
            time.sleep(0.2)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


class Client:
    """Calls that are timed by their name."""

    def __init__(self, http: httpx.AsyncClient, seconds: dict[str, list[float]]) -> None:
        self.http, self.seconds = http, seconds

    async def call(self, name: str, method: str, url: str, **options: Any) -> httpx.Response:
        began = time.perf_counter()
        answer = await self.http.request(method, url, **options)
        self.seconds[name].append(time.perf_counter() - began)
        return answer

    async def make(self, request: dict[str, Any], delay: float, *, polls: bool) -> str:
        """Submit a job, follow it to its end and fetch its sound; returns its id."""
        await asyncio.sleep(delay)
        answer = await self.call("submit", "POST", "/v1/sounds", json=request)
        while answer.status_code == 429:
            await asyncio.sleep(float(answer.headers["retry-after"]))
            answer = await self.call("submit", "POST", "/v1/sounds", json=request)
        job = answer.raise_for_status().json()["id"]
        while True:
            wait = 0 if polls else _WAIT
            name = "status" if polls else "waiting"
            url = f"/v1/sounds/{job}"
            view = (await self.call(name, "GET", url, params={"wait": wait})).json()
            if view["state"] not in ("queued", "running"):
                break
            if polls:
                await asyncio.sleep(_POLL)
        assert view["state"] == "done", view
        sound = await self.call("audio", "GET", view["sounds"][0]["url"])
        assert sound.content.startswith(b"RIFF")
        return str(job)


async def load(address: str, clients: int, request: dict[str, Any]) -> dict[str, Any]:
    """Let all clients make a sound; returns what was measured."""
    seconds: dict[str, list[float]] = defaultdict(list)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=3600, limits=limits) as http:
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.1)
        began = time.perf_counter()
        made = [
            Client(http, seconds).make(
                request | {"seed": n}, ARRIVAL * n / clients, polls=n % _POLLING == 0
            )
            for n in range(clients)
        ]
        jobs = await asyncio.gather(*made)
        took = time.perf_counter() - began
        listed: Counter[str] = Counter()
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            before = {"before": page["next"]} if page["next"] else {}
            page = (await http.get("/v1/sounds", params={"limit": 200, **before})).json()
            listed.update(job["id"] for job in page["jobs"] if job["state"] == "done")
    once = listed == Counter(jobs) and len(listed) == clients
    return {"seconds": seconds, "took": took, "once": once}


def generate_rate(model: str | None, count: int, request: dict[str, Any]) -> float:
    """Sounds per second of `generate` in the server's batches."""
    crafter = SoundCrafter.from_pretrained(model)
    options = {name: request[name] for name in ("seconds", "steps")}
    crafter.generate([request["prompt"]] * BATCH, batch_size=BATCH, **options)
    began = time.perf_counter()
    crafter.generate([request["prompt"]] * count, seed=[*range(count)], batch_size=BATCH, **options)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--model", default=None)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    request = {"prompt": "rain on a tin roof", "seconds": given.seconds, "steps": given.steps}
    print(machine_facts(torch.device("cpu")))
    alone = generate_rate(given.model, 8 * BATCH, request)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), given.model, given.clients)
        try:
            found = asyncio.run(load(server.address, given.clients, request))
        finally:
            code = server.stop()
    print(f"{given.clients} clients, {given.seconds:g} s of sound, {given.steps} steps")
    found["seconds"].pop("waiting", None)  # they took as long as they were asked to
    for name, times in found["seconds"].items():
        p50, p99 = (1000 * np.percentile(times, share) for share in (50, 99))
        print(f"{name:8} {len(times):6} calls   p50 {p50:5.0f} ms   p99 {p99:5.0f} ms")
    served = given.clients / found["took"]
    print(f"{served:.2f} sounds/s; generate {alone:.2f}: {served / alone:.2f} of it")
    peaks = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in server.memory.items())
    print(f"peak memory: {peaks}")
    print(f"every accepted job made once: {found['once']}; exit status {code}")
    if not found["once"] or code != 0:
        sys.exit(1)


if __name__ == "__main__":
    main()
