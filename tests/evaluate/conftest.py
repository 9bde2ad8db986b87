"""A page of a headless browser, for the tests of what a report's reader sees and clicks."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)


@pytest.fixture(scope="session")
def _browser() -> Iterator[Any]:
    """Chromium of the system, started once; SOUNDCRAFTER_CHROMIUM names another place for it."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install .[dev]")
    named = os.environ.get("SOUNDCRAFTER_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser ({', '.join(_NAMES)}): install one or set SOUNDCRAFTER_CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_ARGS))
        yield browser
        browser.close()


@pytest.fixture
def browser_page(_browser) -> Iterator[Any]:
    """A new page of 1280 x 800 that may save downloads, in a context of its own; offline."""
    context = _browser.new_context(
        accept_downloads=True, offline=True, viewport={"width": 1280, "height": 800}
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield page
    context.close()
