"""The studio's picture in docs/: sounds and scenes, light and dark.

    python benchmarks/studio_pictures.py docs/studio.png

Starts `soundcrafter serve` with the bundled model, uses its studio in Chromium and writes one
picture. SOUNDCRAFTER_CHROMIUM names another executable than /usr/bin/chromium.
"""

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from serve_faults import Server

WIDTH, HEIGHT = 1280, 900  # of each page
SCALE = 0.6
COLOURS = 128


def pages(page: Any) -> list[bytes]:
    """A picture of the sounds page and of the scenes page, each after work on it."""
    page.locator("#prompt textarea").fill("heavy rain on a tin roof")
    page.get_by_text("More options").click()
    page.get_by_label("Seed").first.fill("7")
    page.get_by_text("More options").click()
    page.locator("#prompt textarea").press("Enter")
    page.locator(".card:visible").nth(1).wait_for()
    page.wait_for_timeout(3000)  # waveforms are drawn when they are loaded
    sounds = page.screenshot()
    page.get_by_role("tab", name="Scenes").click()
    page.get_by_role("button", name="Plan it").click()
    page.locator("svg.timeline .event").first.wait_for()
    page.get_by_role("button", name="Render").click()
    page.locator(".card:visible").first.wait_for()
    page.wait_for_timeout(3000)
    return [sounds, page.screenshot()]


def main(target: Path) -> None:
    executable = os.environ.get("SOUNDCRAFTER_CHROMIUM", "/usr/bin/chromium")
    whole = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT))
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        server = Server(Path(place) / "serve")
        server.client().close()
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for column, theme in enumerate(("light", "dark")):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.set_default_timeout(120_000)
            page.goto(f"{server.address}/?__theme={theme}")
            for row, data in enumerate(pages(page)):
                whole.paste(Image.open(io.BytesIO(data)), (column * WIDTH, row * HEIGHT))
        browser.close()
        server.stop()
    small = whole.resize((round(whole.width * SCALE), round(whole.height * SCALE)), Image.LANCZOS)
    small.quantize(COLOURS).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
