"""How long the page in web/dist takes, in headless Chromium.

    make web && python benchmarks/web_page.py

Prints medians for 5 s of sound, with one thread and with all: from opening the page to the first
sound, as a first and as a later visit, and once all is loaded. In seconds; in CPU seconds of the
browser, which depend less on what else runs; and with the load of the machine.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from playwright.sync_api import sync_playwright

DIST = Path(__file__).resolve().parents[1] / "web" / "dist"
PROMPTS = ("a dog barks", "rain on a roof", "thunder in the distance", "a glass breaks")


class Cost(NamedTuple):
    wall: float  # seconds
    cpu: float  # CPU seconds of the browser


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder; its address."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def generate(page: Any, prompt: str, count: int) -> None:
    """Make a sound, the page's `count`th."""
    page.fill("#prompt", prompt)
    page.fill("#seconds", "5")
    page.press("#prompt", "Enter")
    page.locator("#sounds li").nth(count - 1).wait_for()


def cpu_seconds() -> float:
    """The CPU time of the browser so far, without processes that have ended."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found += times.user + times.system
    return found


def visit(context: Any, address: str, prompts: tuple[str, ...]) -> list[Cost]:
    """The cost of opening the page and making the first sound, and of each sound after it."""
    page = context.new_page()
    page.set_default_timeout(300_000)
    marks = [Cost(time.perf_counter(), cpu_seconds())]
    page.goto(address)
    page.locator("#generate:enabled").wait_for()
    for count, prompt in enumerate(prompts, 1):
        generate(page, prompt, count)
        marks.append(Cost(time.perf_counter(), cpu_seconds()))
    page.close()
    time.sleep(2)  # its process ends, and counts no longer
    return [Cost(b.wall - a.wall, b.cpu - a.cpu) for a, b in pairwise(marks)]


def measure(playwright: Any, address: str, rounds: int) -> dict[str, list[Cost]]:
    """The costs of visits with a new profile each."""
    found: dict[str, list[Cost]] = {"first visit": [], "later visit": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            context = playwright.chromium.launch_persistent_context(
                profile,
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=["--no-sandbox"],
            )
            first, *warm = visit(context, address, PROMPTS)
            found["first visit"].append(first)
            found["warm"] += warm
            found["later visit"] += visit(context, address, PROMPTS[:1])
            context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=DIST)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with served(options.dist) as address, sync_playwright() as playwright:
        for threads in (1, os.cpu_count() or 1):
            costs = measure(playwright, f"{address}?threads={threads}", options.rounds)
            print(f"{threads} threads, load {os.getloadavg()[0]:.1f}")
            for name, each in costs.items():
                wall = statistics.median(cost.wall for cost in each)
                cpu = statistics.median(cost.cpu for cost in each)
                print(f"  {name:12} {wall:5.1f} s, CPU {cpu:5.1f} s, N={len(each)}")


if __name__ == "__main__":
    main()
