"""The server under attack: kills, damaged uploads, requests without a token, many jobs.

    python benchmarks/serve_faults.py kills               # worker and server, kill -9 in 50 jobs
    python benchmarks/serve_faults.py uploads             # 100 damaged files, bombs, huge bodies
    python benchmarks/serve_faults.py disk                # a disk that fills up (as root: a tmpfs)
    python benchmarks/serve_faults.py tokens              # 10,000 requests without a token
    python benchmarks/serve_faults.py jobs                # 1,000 jobs, memory at each 100
    python benchmarks/serve_faults.py burst               # 200 clients at one instant

Each starts `soundcrafter serve` with the bundled model in a folder of its own, prints what it saw
and exits with 1 if the server did not hold what docs/serving.md promises.
"""

import argparse
import asyncio
import io
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

SHORT = {"prompt": "rain", "seconds": 1.0, "steps": 1, "candidates": 1}
MIB = 2**20


class Server:
    """`soundcrafter serve` as a process; what it logs is in `log`."""

    def __init__(self, folder: Path, *options: str) -> None:
        # outside the folder, whose disk may be full
        self.log = Path(tempfile.mkdtemp(prefix="serve-log-")) / "log"
        command = [sys.executable, "-m", "soundcrafter", "serve", "--port", "0", "--folder"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, str(folder), *options], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().removeprefix("serving at ")

    def worker(self) -> psutil.Process | None:
        """The worker's process, if there is one; the server's other child tracks resources."""
        for child in psutil.Process(self.process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                return child
        return None

    def memory(self) -> tuple[float, float]:
        """Resident memory of the server and of its worker, MiB."""
        worker = self.worker()
        own = psutil.Process(self.process.pid).memory_info().rss
        return own / MIB, 0.0 if worker is None else worker.memory_info().rss / MIB

    def client(self, **options: Any) -> httpx.Client:
        """A client, once the model is loaded."""
        client = httpx.Client(base_url=self.address, timeout=120, **options)
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        return client

    def kill(self) -> None:
        self.process.kill()
        self._end()

    def stop(self) -> int:
        self.process.terminate()
        return self._end()

    def _end(self) -> int:
        code = self.process.wait(30)
        shutil.rmtree(self.log.parent)
        return code

    def lines(self) -> list[str]:
        """What it has logged."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()


# --- kills ---


def kills(place: Path, count: int = 50) -> bool:
    """Kill the worker, then the server, in the middle of `count` jobs; compare the sounds with
    those of a server that nobody disturbed."""
    sounds = {}
    for name, disturbed in (("undisturbed", False), ("disturbed", True)):
        folder = place / name
        server = Server(folder, "--max-queue", "1000")
        jobs = _submit_all(server, count)
        if disturbed:
            _wait_for(server, count // 5)
            worker = server.worker()
            assert worker is not None
            worker.kill()
            print(f"worker killed with {_states(server)}")
            _wait_for(server, count // 2)
            server.kill()
            server = Server(folder, "--max-queue", "1000")
            print(f"server killed; at the restart {_states(server)}")
        _wait_for(server, count)
        listed = httpx.get(f"{server.address}/v1/sounds?limit=200").json()["jobs"]
        print(f"{name}: {_states(server)}; exit status {server.stop()}")
        if Counter(job["id"] for job in listed) != Counter(jobs):
            return False
        sounds[name] = [(folder / "sounds" / job / "0.wav").read_bytes() for job in jobs]
    equal = sum(_samples(a) == _samples(b) for a, b in zip(*sounds.values(), strict=True))
    print(f"{equal} of {count} sounds are equal, sample by sample")
    return equal == count


def _submit_all(server: Server, count: int) -> list[str]:
    with httpx.Client(base_url=server.address) as client:
        made = []
        for number in range(count):
            request = {"prompt": f"rain {number}", "seconds": 1.0 + number % 2, "steps": 10}
            answer = client.post("/v1/sounds", json=request | {"seed": number})
            made.append(answer.raise_for_status().json()["id"])
    return made


def _states(server: Server) -> dict[str, int]:
    jobs = httpx.get(f"{server.address}/v1/sounds?limit=200", timeout=30).json()["jobs"]
    return dict(Counter(job["state"] for job in jobs))


def _wait_for(server: Server, done: int) -> None:
    while _states(server).get("done", 0) < done:
        time.sleep(0.2)


def _samples(data: bytes) -> bytes:
    return soundfile.read(io.BytesIO(data), dtype="int32")[0].tobytes()


# --- uploads ---


def uploads(place: Path) -> bool:
    """Send damaged, huge and lying files; every answer must be 2xx or 4xx, memory flat."""
    server = Server(place / "serve")
    client = server.client()
    client.post("/v1/uploads", content=_sound("WAV"))
    before, statuses = server.memory()[0], Counter()
    logged = len(server.lines())
    for data in _damaged(100):
        statuses[client.post("/v1/uploads", content=data).status_code] += 1
    print(f"100 damaged files: {dict(statuses)}")
    for name, content in _liars(place):
        try:
            answer = client.post("/v1/uploads", content=content)
            statuses[answer.status_code] += 1
            print(f"{name}: {answer.status_code} {answer.text}")
        except httpx.TransportError as error:  # it hung up on a body that was too large
            statuses[413] += 1
            print(f"{name}: {type(error).__name__}")
    after = server.memory()[0]
    kept = [each.name for each in (place / "serve" / "uploads").iterdir()]
    partial = [name for name in kept if not name.endswith(".wav")]
    lines = server.lines()[logged:]
    refusals = sum(count for status, count in statuses.items() if status >= 400)
    print(f"server: {before:.0f} MiB before, {after:.0f} MiB after; left half-written: {partial}")
    print(f"{refusals} refusals, {len(lines)} lines of log", *lines[-3:], sep="\n  ")
    alive = client.get("/healthz").status_code == 200
    server.stop()
    return alive and not partial and max(statuses) < 500 and after < before + 40


def _sound(kind: str, seconds: float = 1.0, rate: int = 16_000) -> bytes:
    wave = np.random.default_rng(0).normal(size=round(seconds * rate)) * 0.1
    stream = io.BytesIO()
    soundfile.write(stream, wave, rate, format=kind)
    return stream.getvalue()


def _damaged(count: int) -> Iterator[bytes]:
    """Files with flipped bits, cut, or with the header of another format."""
    kinds, chance = ("WAV", "FLAC", "OGG", "MP3"), random.Random(1)
    whole = {kind: _sound(kind) for kind in kinds}
    for number in range(count):
        data = bytearray(whole[kinds[number % 4]])
        damage = number // 4 % 4
        if damage == 0:  # in the header
            for _ in range(8):
                data[chance.randrange(4, 64)] ^= 1 << chance.randrange(8)
        elif damage == 1:  # anywhere
            for _ in range(200):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif damage == 2:
            del data[chance.randrange(1, len(data)) :]
        else:
            data[:4] = chance.choice((b"RIFF", b"fLaC", b"OggS", b"ID3\4", b"RF64", b"FORM"))
        yield bytes(data)


def _liars(place: Path) -> Iterator[tuple[str, Any]]:
    """Named bodies that are not what they say, or more than they should be."""
    header = _sound("WAV")[:44]
    hours = header[:4] + b"\xff" * 4 + header[8:40] + struct.pack("<I", 2**32 - 256)
    yield "wav that claims hours", hours + bytes(1000)
    yield "wav of 0 Hz", header[:24] + bytes(4) + header[28:] + bytes(32_000)
    yield "wav of 4 GHz", header[:24] + b"\xff" * 4 + header[28:] + bytes(32_000)
    yield "wav of 65,535 channels", header[:22] + b"\xff\xff" + header[24:] + bytes(32_000)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(512 * MIB))
    yield "zip bomb", stream.getvalue()
    stream = io.BytesIO()  # a few hundred KiB that are 4 GiB of samples
    with soundfile.SoundFile(stream, "w", 192_000, 8, format="FLAC") as file:
        for _ in range(590):
            file.write(np.zeros((192_000, 8), np.int16))
    yield f"flac bomb of {len(stream.getvalue()) // 1024} KiB", stream.getvalue()
    sparse = place / "sparse.wav"
    with open(sparse, "wb") as file:
        file.write(header)
        file.truncate(2 * 2**30)
    yield "sparse file of 2 GiB", _blocks(sparse)  # chunked: no length is told
    yield "sparse file of 2 GiB with its length", open(sparse, "rb")  # noqa: SIM115


def _blocks(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as stream:
        while block := stream.read(MIB):
            yield block


# --- a full disk ---


def disk(place: Path) -> bool:
    """A disk that fills up while jobs run, and has room again. Needs the right to mount."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    server = None
    try:
        folder, filler = place / "serve", place / "filler"
        server = Server(folder, "--min-free-mib", "1")
        client = server.client()
        jobs = [client.post("/v1/sounds", json=SHORT | {"seed": n}).json()["id"] for n in range(12)]
        _wait_for(server, 2)
        _fill(filler)
        time.sleep(3)
        answers = [
            client.post("/v1/sounds", json=SHORT).status_code,
            client.post("/v1/uploads", content=_sound("WAV", 20)).status_code,
        ]
        partial = [each.name for each in folder.rglob(".*") if each.name != ".lock"]
        print(f"full: {answers}, {_states(server)}, half-written: {partial}")
        filler.unlink()
        _wait_for(server, len(jobs))
        answers.append(client.post("/v1/sounds", json=SHORT | {"wait": True}).status_code)
        print(f"with room again: {answers[-1]}, {_states(server)}")
        print(*server.lines()[:6], sep="\n  ")
        return answers == [507, 507, 200] and not partial
    finally:
        if server is not None:
            server.kill()
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(file: Path) -> None:
    """Write until the disk is full."""
    with open(file, "wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass


# --- tokens ---


def tokens(place: Path, count: int = 10_000, clients: int = 16) -> bool:
    """Requests without a token, and beside them one client with a token."""
    file = place / "tokens"
    file.write_text("secret\n", encoding="utf-8")
    server = Server(place / "serve", "--token-file", str(file))
    known = server.client(headers={"Authorization": "Bearer secret"})
    before = server.memory()[0]
    quiet = [_timed(known) for _ in range(100)]
    busy: list[float] = []
    with ProcessPoolExecutor(1) as others:  # a process of its own, which keeps no one waiting here
        flood = others.submit(_flood, server.address, count, clients)
        while not flood.done():
            busy.append(_timed(known))
            time.sleep(0.05)
    statuses = flood.result()
    after = server.memory()[0]
    p50, p99 = (1000 * np.percentile(busy, share) for share in (50, 99))
    print(f"{count} requests without a token: {dict(statuses)}")
    print(
        f"with a token, quiet: median {1000 * np.median(quiet):.0f} ms; "
        f"meanwhile: median {p50:.0f} ms, 99th percentile {p99:.0f} ms of {len(busy)}"
    )
    print(f"server: {before:.0f} MiB before, {after:.0f} MiB after")
    lines = server.lines()
    print(f"{len(lines)} lines of log", *lines[-3:], sep="\n  ")
    server.stop()
    return set(statuses) == {401} and after < before + 20 and p99 < 500


def _timed(client: httpx.Client) -> float:
    began = time.perf_counter()
    client.get("/v1/sounds").raise_for_status()
    return time.perf_counter() - began


def _flood(address: str, count: int, clients: int) -> Counter[int]:
    """Requests without a token, or with a wrong one, for pages, files and the queue."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(count))
    paths = ("/v1/sounds", "/", "/gradio_api/queue/join", "/metrics")

    async def knock(http: httpx.AsyncClient) -> None:
        for number in numbers:
            wrong = {"Authorization": f"Bearer {number}"} if number % 3 else {}
            statuses[(await http.get(paths[number % 4], headers=wrong)).status_code] += 1

    async def run() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=60) as http:
            await asyncio.gather(*(knock(http) for _ in range(clients)))

    asyncio.run(run())
    return statuses


# --- memory over many jobs, and many clients at once ---


def jobs(place: Path, count: int = 1_000, limit: float = 1_200) -> bool:
    """The shortest jobs, one after the other; memory at each 100."""
    server = Server(place / "serve")
    client, began, seen = server.client(), time.monotonic(), []
    for number in range(count):
        answer = client.post("/v1/sounds", json=SHORT | {"seed": number, "wait": True})
        if answer.raise_for_status().headers["content-type"] != "audio/wav":
            return False
        if number % 100 == 99:
            seen.append(server.memory())
            took = time.monotonic() - began
            own, worker = seen[-1]
            print(f"{number + 1} jobs: server {own:.0f} MiB, worker {worker:.0f} MiB, {took:.0f} s")
            if took > limit:
                break
    server.stop()
    return all(late < early + 25 for early, late in zip(seen[1], seen[-1], strict=True))


def burst(place: Path, clients: int = 200, queue: int = 100) -> bool:
    """More clients at one instant than the queue has room for."""
    server = Server(place / "serve", "--max-queue", str(queue))
    server.client().close()
    statuses, accepted, times = asyncio.run(_burst(server.address, clients))
    print(f"{clients} clients at once: {dict(statuses)}")
    for name, taken in times.items():
        p50, p99 = (1000 * np.percentile(taken, share) for share in (50, 99))
        print(f"{name}: {len(taken)} answers, median {p50:.0f} ms, 99th percentile {p99:.0f} ms")
    _wait_for(server, min(len(accepted), 200))
    listed = httpx.get(f"{server.address}/v1/sounds?limit=200").json()["jobs"]
    once = Counter(j["id"] for j in listed if j["state"] == "done") == Counter(accepted)
    print(f"every accepted job made once: {once}; exit status {server.stop()}")
    return once and set(statuses) <= {202, 429}


async def _burst(
    address: str, clients: int
) -> tuple[Counter[int], list[str], dict[str, list[float]]]:
    """Each submits once at the same instant, then asks for its job while the queue is full."""
    statuses: Counter[int] = Counter()
    accepted: list[str] = []
    times: dict[str, list[float]] = {"submit": [], "status": []}
    ready = asyncio.Event()

    async def one(number: int) -> None:
        # a pool of its own: one that all share is slower than the server
        async with httpx.AsyncClient(base_url=address, timeout=600, verify=False) as http:
            await http.get("/healthz")  # so that it is connected
            await ready.wait()
            began = time.perf_counter()
            answer = await http.post("/v1/sounds", json=SHORT | {"seed": number})
            times["submit"].append(time.perf_counter() - began)
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 0
                return
            accepted.append(answer.raise_for_status().json()["id"])
            for _ in range(5):
                await asyncio.sleep(1 + random.random())
                began = time.perf_counter()
                (await http.get(f"/v1/sounds/{accepted[-1]}")).raise_for_status()
                times["status"].append(time.perf_counter() - began)

    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    await asyncio.sleep(10)
    ready.set()
    await asyncio.gather(*tasks)
    return statuses, accepted, times


def main() -> None:
    attacks: dict[str, Callable[[Path], bool]] = {
        each.__name__: each for each in (kills, uploads, disk, tokens, jobs, burst)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attack", choices=[*attacks])
    given = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{given.attack}: {os.cpu_count()} cores, load {load}")
    with tempfile.TemporaryDirectory() as place:
        held = attacks[given.attack](Path(place))
    print("held" if held else "did not hold")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
