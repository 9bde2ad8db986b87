"""The studio in a real browser, over a real server; its timeline and its desk without one."""

import json
import re
import signal
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import soundfile

from soundcrafter.provenance import read_provenance
from soundcrafter.scene.text import scene_from_text
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.service import Service
from soundcrafter.serve.settings import ServeSettings
from soundcrafter.serve.studio.desk import Desk, request_from
from soundcrafter.serve.studio.timeline import COLUMNS, drawing, moved, rows_of, scene_from

if find_spec("gradio") is None:  # it takes seconds to import
    pytest.skip("needs the studio: pip install .[serve]", allow_module_level=True)
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def server(launch: Any, tiny_model: Path, tmp_path_factory: Any) -> Iterator[str]:
    """The address of a server on a free port that asks for a token."""
    folder = tmp_path_factory.mktemp("studio")
    tokens = folder / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    options = ("--port", 0, "--folder", folder / "serve", "--token-file", tokens)
    process = launch("serve", "--model", tiny_model, *options)
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line
    yield found[0]
    process.send_signal(signal.SIGTERM)
    process.wait(30)


@pytest.fixture
def page(_browser: Any, server: str) -> Iterator[Any]:
    context = _browser.new_context(
        viewport={"width": 1280, "height": 900},
        http_credentials={"username": "anyone", "password": TOKEN},
    )
    page = context.new_page()
    elsewhere: list[str] = []
    faults: list[str] = []
    page.on("request", lambda r: None if is_ours(r.url, server) else elsewhere.append(r.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_default_timeout(30_000)
    page.goto(server)
    page.wait_for_selector("#prompt textarea")
    yield page
    assert (elsewhere, faults) == ([], [])  # no telemetry, no fonts from elsewhere
    context.close()


def is_ours(url: str, address: str) -> bool:
    return url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))


def generate(page: Any, prompt: str, seconds: float = 1.0) -> None:
    page.get_by_role("spinbutton").first.fill(str(seconds))
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#prompt textarea").press("Enter")


def wait_for_cards(page: Any, count: int) -> None:
    page.wait_for_function(
        f"[...document.querySelectorAll('.card')].filter(c => c.offsetParent).length >= {count}"
    )


def test_from_a_prompt_to_a_played_sound_and_what_is_made_of_it(page, tmp_path):
    generate(page, "")
    page.wait_for_selector("#status .error")
    assert "the prompt is empty" in page.locator("#status").inner_text()
    generate(page, "rain & <b>wind</b>")
    wait_for_cards(page, 2)
    first = page.locator(".card").first
    assert "rain & <b>wind</b>" in first.inner_text()
    assert re.search(r"seed \d+ · 1.00 s · score -?0.\d\d", first.inner_text())
    first.get_by_role("button", name="Play", exact=True).wait_for()
    page.locator("h1").click()
    page.keyboard.press("Space")
    first.get_by_role("button", name="Pause", exact=True).wait_for()
    for number, name in enumerate(("Vary", "More like this", "Make it a loop"), 3):
        page.get_by_role("button", name=name).first.click()
        wait_for_cards(page, number)
    loop = page.locator(".card").first
    loop.get_by_role("button", name="Save").click()
    loop.locator("a[download]").first.wait_for()
    with page.expect_download() as download:
        loop.locator("a[download]").first.click()
    file = tmp_path / "loop.wav"
    download.value.save_as(file)
    assert soundfile.info(file).samplerate == 48_000
    assert b"smpl" in file.read_bytes()
    assert read_provenance(file).arguments["loop"] is True


def test_a_part_marked_in_the_picture_is_regenerated(page):
    generate(page, "rain", 2.0)
    wait_for_cards(page, 2)
    card = page.locator(".card").first
    check_picture_is_as_wide_as_the_waveform(page, card)
    card.get_by_text("Regenerate a part").click()
    picture = card.locator(".picture img")
    for share in (0.25, 0.5):
        picture.click(position={"x": picture.bounding_box()["width"] * share, "y": 20})
        page.wait_for_timeout(700)
    numbers = [float(field.input_value()) for field in card.locator("input[type=number]").all()]
    assert numbers == [pytest.approx(0.5, abs=0.05), pytest.approx(1.0, abs=0.05)]
    card.get_by_role("button", name="Regenerate").last.click()
    wait_for_cards(page, 3)


def check_picture_is_as_wide_as_the_waveform(page, card):
    page.wait_for_function("document.querySelector('.card .picture img')?.complete")
    picture, wave = (
        card.locator(s).bounding_box() for s in (".picture img", ".waveform-container")
    )
    assert picture["x"] == pytest.approx(wave["x"], abs=2)
    assert picture["width"] == pytest.approx(wave["width"], abs=4)


def test_a_scene_is_planned_edited_rendered_and_saved(page, tmp_path):
    page.get_by_role("tab", name="Scenes").click()
    page.get_by_label("Describe a scene").fill("rain while a dog barks, then thunder")
    page.get_by_role("button", name="Plan it").click()
    event = page.locator("svg.timeline .event").nth(2)
    event.wait_for()
    before = float(event.get_attribute("data-start"))
    box = event.locator("rect").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] - 90, box["y"] + 8, steps=4)
    page.mouse.up()
    page.wait_for_function(
        f"Number(document.querySelectorAll('svg.timeline .event')[2].dataset.start) < {before}"
    )
    dragged = float(event.get_attribute("data-start"))
    event.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        f"Number(document.querySelectorAll('svg.timeline .event')[2].dataset.start) > {dragged}"
    )
    page.get_by_role("button", name="Render").click()
    page.get_by_text("Stems to hear").wait_for()
    page.get_by_role("button", name="Solo: thunder").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save stems (zip)").click()
    file = tmp_path / "stems.zip"
    download.value.save_as(file)
    with zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == 3


def test_history_has_what_was_made_before_the_page_was_opened(page, server):
    generate(page, "a squeaky gate")
    wait_for_cards(page, 2)
    with page.expect_response(lambda answer: "queue/join" in answer.url):
        page.locator(".card").first.get_by_label("Favourite").check()
    page.goto(server)
    page.wait_for_selector("#prompt textarea")
    page.get_by_role("tab", name="History").click()
    wait_for_cards(page, 1)
    page.get_by_label("Search").fill("squeaky")
    page.get_by_label("Favourites only").check()
    page.wait_for_function(
        "[...document.querySelectorAll('.card')].filter(c => c.offsetParent).length == 2"
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    settings = ServeSettings(folder=tmp_path / "serve", max_queue=1)
    return Desk(Service(settings, JobStore(settings.database_url, settings.folder, max_queue=1)))


def test_the_history_survives_a_restart(desk: Desk):
    job = desk.submit(prompt="a squeaky gate", count=1)
    desk.store.claim("w", 1)
    desk.store.finish("w", {job.id: {"sounds": []}})
    settings = desk.settings
    again = Desk(Service(settings, JobStore(settings.database_url, settings.folder)))
    assert [found.id for found in again.history("squeaky", False, None, 8)] == [job.id]


def test_the_page_fits_phones_and_the_keyboard_is_seen(page):
    page.locator("#prompt textarea").focus()
    for _ in range(8):
        page.keyboard.press("Tab")
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", page.evaluate("document.activeElement.outerHTML")
    for width in (390, 320):  # 320: 1280 at 400%
        page.set_viewport_size({"width": width, "height": 600})
        for name in ("Scenes", "History", "Sounds"):
            page.get_by_role("tab", name=name).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_full_queue_and_bad_options_are_said_in_words(desk: Desk):
    from soundcrafter.serve.studio.messages import Refused, reason

    desk.submit(prompt="rain", count=1)

    def refused(**request: Any) -> str:
        with pytest.raises(Refused) as error:
            desk.submit(**request)
        return reason(error.value)

    assert refused(prompt="wind") == "the queue is full (1 jobs); try again later"
    assert refused(prompt="wind", seconds=61) == "seconds: got 61; this server allows up to 60"
    assert refused(prompt="wind", seed=-2).startswith("seed: Input should be greater")


def test_a_scene_goes_into_the_table_and_back():
    scene = scene_from_text("rain while a dog barks twice, then thunder", seconds=8.0, seed=3)
    rows = rows_of(scene)
    again = scene_from(rows, 8.0, 3, 2.5)
    assert [t.name for t in again.tracks] == [t.name for t in scene.tracks]
    assert rows_of(again) == rows
    later = moved(rows, 1, 4.567)
    assert later[1][COLUMNS.index("start")] == 4.57
    assert moved(rows, 9, 1.0) == rows


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (["a", "rain", "soon", "", 0, 0, 1], "row 1: start: got 'soon'; expected a number"),
        (["a", "rain", 0, 0.01, 0, 0, 1], "row 1: seconds: got 0.01"),
        (["a", "rain", 0, "", 0, 3, 1], "row 1: pan: got 3"),
        (["a", "", 0, "", 0, 0, 1], "scene: describe at least one sound"),
        (["a/b", "rain", 0, "", 0, 0, 1], "name: got 'a/b'"),
    ],
)
def test_bad_rows_are_named(row, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        scene_from([row], 5.0, 0, 2.5)


def test_the_drawing_escapes_what_people_write():
    svg = drawing([["<a>", '"><script>', 0, "", 0, 0, 1], ["b", "rain", "x", "", 0, 0, 1]], 5.0)
    assert "<script>" not in svg
    assert svg.count('class="event"') == 1  # the other has no place in time


def test_settings_and_provenance_are_read_back(tiny_model: Path):
    from soundcrafter.pipeline import SoundCrafter

    assert request_from('{"prompt": "rain", "seed": 3}') == {"prompt": "rain", "seed": 3}
    (sound,) = SoundCrafter.from_pretrained(tiny_model, "cpu").generate(
        "rain", seed=9, seconds=0.5, steps=2, more="bright"
    )
    found = request_from(sound.provenance.to_json())
    assert (found["prompt"], found["seed"], found["steps"]) == ("rain", 9, 2)
    assert found["more"] == ["bright"]
    for text in ("", "[1]", '{"tempo": 3}', json.dumps({"prompts": []})):
        with pytest.raises(ValueError, match="settings: "):
            request_from(text)
