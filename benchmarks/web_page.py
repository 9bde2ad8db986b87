"""How long the page in web/dist takes, in headless Chromium.

    make web && python benchmarks/web_page.py

Prints the median time from opening the page to the first sound, as a first and as a later visit,
and that of a sound once all is loaded, with one thread and with all; and the load of the machine.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

DIST = Path(__file__).resolve().parents[1] / "web" / "dist"
PROMPTS = ("a dog barks", "rain on a roof", "thunder in the distance", "a glass breaks")


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


def visit(context: Any, address: str, prompts: tuple[str, ...]) -> tuple[float, list[float]]:
    """Seconds from opening the page to the first sound, and those of each sound after it."""
    page = context.new_page()
    page.set_default_timeout(120_000)
    times = [time.perf_counter()]
    page.goto(address)
    page.locator("#generate:enabled").wait_for()
    for count, prompt in enumerate(prompts, 1):
        generate(page, prompt, count)
        times.append(time.perf_counter())
    print("   ", page.inner_text("#device"), *(f"{b - a:.1f}" for a, b in zip(times, times[1:])))
    page.close()
    return times[1] - times[0], [b - a for a, b in zip(times[1:], times[2:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dist", type=Path, default=DIST)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with served(options.dist) as address, sync_playwright() as playwright:
        for threads in (1, os.cpu_count() or 1):
            first, later, warm = [], [], []
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory() as profile:
                    context = playwright.chromium.launch_persistent_context(
                        profile, executable_path=browser_path, args=["--no-sandbox"]
                    )
                    url = f"{address}?threads={threads}"
                    cold, sounds = visit(context, url, PROMPTS)
                    first.append(cold)
                    warm += sounds
                    later.append(visit(context, url, PROMPTS[:1])[0])
                    context.close()
            print(
                f"{threads} threads: first visit {statistics.median(first):.1f} s, "
                f"later visit {statistics.median(later):.1f} s, "
                f"warm {statistics.median(warm):.1f} s; load {os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    main()
