"""The page in a browser, from a static server and without one, beside Python's runtime."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundcrafter.onnx import OnnxSoundCrafter


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Visit:
    """A visit to the page, and what it asked for."""

    def __init__(self, site: Path, browser: Any) -> None:
        handler = partial(QuietHandler, directory=str(site))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.context = browser.new_context(accept_downloads=True)
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("weberror", lambda fault: self.faults.append(str(fault.error)))
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)

    def open(self) -> None:
        self.page.goto(self.address)
        # not before the page is isolated, for which it reloads itself once
        self.page.locator("#generate:enabled").wait_for()

    def generate(self, prompt: str, seconds: str, seed: int, tmp_path: Path) -> np.ndarray:
        """Make a sound and save it: its samples."""
        count = self.page.locator("#sounds li").count()
        self.page.get_by_label("Describe a sound").fill(prompt)
        self.page.get_by_label("Length in seconds").fill(seconds)
        self.page.get_by_label("Keep this seed").check()
        self.page.get_by_label("Seed", exact=True).fill(str(seed))
        self.page.get_by_label("Describe a sound").press("Enter")
        self.page.locator("#sounds li").nth(count).wait_for()
        return self.save(tmp_path)

    def save(self, tmp_path: Path) -> np.ndarray:
        """The samples of the newest sound."""
        with self.page.expect_download() as download:
            self.page.locator("#sounds li").first.get_by_text("Save").click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        return soundfile.read(file, dtype="float32")[0]

    def stop_serving(self) -> None:
        if self._thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self._thread.join()


@pytest.fixture
def visit(site: Path, _browser: Any) -> Iterator[Visit]:
    found = Visit(site, _browser)
    yield found
    found.context.close()
    found.stop_serving()
    assert found.faults == []


@pytest.fixture(scope="module")
def runtime(exported: Path) -> OnnxSoundCrafter:
    return OnnxSoundCrafter.from_pretrained(exported, threads=1)


def check_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Up to the rounding of a file of 16 bits and of another build of ONNX Runtime."""
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())


def test_sounds_are_pythons_and_nothing_leaves_the_machine(visit, runtime, tmp_path):
    visit.open()
    assert visit.page.evaluate("self.crossOriginIsolated")  # so there are threads
    (wanted,) = runtime.generate("rain & thunder", seconds=1.0, seed=7, candidates=None)
    check_same(visit.generate("rain & thunder", "1", 7, tmp_path), wanted.wave)
    assert f"seed 7 · score {wanted.score:.2f}"[:-1] in visit.page.locator(".facts").inner_text()
    # without a length: the usual one, without silence; and Vary takes the next seed
    (wanted,) = runtime.generate("rain & thunder", seed=8)
    visit.page.get_by_label("Length in seconds").fill("")
    visit.page.get_by_role("button", name="Vary", exact=True).click()
    visit.page.locator("#sounds li").nth(1).wait_for()
    check_same(visit.save(tmp_path), wanted.wave)

    visit.stop_serving()
    visit.page.reload()
    (wanted,) = runtime.generate("a dog barks", seconds=1.0, seed=3)
    check_same(visit.generate("a dog barks", "1", 3, tmp_path), wanted.wave)
    assert {url for url in visit.requests if not url.startswith((visit.address, "blob:"))} == set()


def test_the_page_by_keyboard_and_its_words(visit, tmp_path):
    visit.open()
    page = visit.page
    page.get_by_role("button", name="a glass breaks").click()
    assert page.get_by_label("Describe a sound").input_value() == "a glass breaks"
    page.get_by_label("Length in seconds").fill("10")
    page.get_by_label("Describe a sound").press("Enter")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled").wait_for()
    first = page.get_by_label("Seed", exact=True).input_value()
    page.get_by_label("Describe a sound").press("Enter")
    page.get_by_text("Ready: a glass breaks").wait_for()
    assert page.get_by_label("Seed", exact=True).input_value() != first  # a new one each time
    page.get_by_role("button", name="Pause a glass breaks").wait_for()
    page.locator("h1").click()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play a glass breaks").wait_for()
    page.get_by_label("Describe a sound").fill("\u0001")
    page.get_by_label("Describe a sound").press("Enter")
    page.get_by_role("alert").get_by_text("characters that are no text").wait_for()
    assert "seed" not in page.url


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("settings.json", "There is no model beside this page"),
        ("unet.onnx", "unet.onnx of the model is damaged"),
    ],
)
def test_what_is_wrong_is_said_in_words(visit, name, words):
    file = Path(visit.server.RequestHandlerClass.keywords["directory"]) / "model" / name
    kept = file.read_bytes()
    try:
        if name == "settings.json":
            file.unlink()
        else:
            file.write_bytes(kept[:-1] + b"?")
        visit.page.goto(visit.address)
        visit.page.get_by_role("alert").get_by_text(words).wait_for()
        assert visit.page.get_by_role("button", name="Generate").is_disabled()
    finally:
        file.write_bytes(kept)
