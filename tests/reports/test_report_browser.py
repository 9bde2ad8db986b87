"""The HTML report in a browser: players load, pictures show, sorting sorts, nothing is fetched."""

import json
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from soundcrafter.audio import AUDIO_SUFFIXES, audio_info, read_audio, write_audio
from soundcrafter.evaluate.embedders import open_embedder
from soundcrafter.evaluate.prompt_sets import caption_prompts
from soundcrafter.evaluate.run import evaluate_prompts
from soundcrafter.evaluate.sound_files import find_recordings
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.reports.html import write_html

FAMILIES = ("bell", "dog bark", "helicopter", "horse", "printer", "waterfall")
EXPECTED = {"ours": (0.9, 0.15, 0.5, 0.7, None, 0.3), "base": (0.2, 0.8, 0.6, 0.1, 0.4, 0.3)}


@pytest.fixture(scope="module")
def reports(tmp_path_factory, clips):
    """The page of one evaluation and that of two, made of the repository's clips."""
    files = sorted(f for f in (clips / "audio").iterdir() if f.suffix in AUDIO_SUFFIXES)
    folder = tmp_path_factory.mktemp("reports")
    outs = []
    for name, expected in EXPECTED.items():
        out = folder / name
        (out / "generated").mkdir(parents=True)
        sounds = []
        for place, (file, family) in enumerate(zip(files, FAMILIES, strict=True)):
            made = f"generated/{place:04d}-{family.replace(' ', '-')}.wav"
            wave = read_audio(file, 16000)[:: 1 if name == "ours" else -1]
            write_audio(out / made, wave, 16000)
            sounds.append(
                {
                    "file": made,
                    "prompt": f"{family}, number {place}",
                    "family": family,
                    "seed": 0,
                    "seconds": audio_info(out / made).seconds,
                    "reference": None,
                    "clap": place / 10,
                    "heard": FAMILIES[place // 2],
                    "probability": 0.6,
                    "expected": expected[place],
                }
            )
        report = {
            "version": "0",
            "name": name,
            "parameters": 1000,
            "generated": 6,
            "reference": 6,
            "resampler": "soxr HQ",
            "seed": 0,
            "embedders": [],
            "sounds": sounds,
        }
        (out / "report.json").write_text(json.dumps(report))
        outs.append(out)
    write_html(outs[:1], folder / "one.html")
    write_html(outs, folder / "two.html")
    return folder


@pytest.fixture(params=["one.html", "two.html"])
def opened(request, reports, browser_page):
    """A page with the addresses that it asked for and the faults it told; none may be there."""
    asked, faults = [], []
    browser_page.on("request", lambda r: asked.append(r.url))
    browser_page.on("console", lambda m: faults.append(m.text))
    browser_page.on("pageerror", lambda e: faults.append(str(e)))
    browser_page.goto((reports / request.param).as_uri())
    yield browser_page
    assert asked[0].startswith("file:")
    assert all(url.startswith("data:") for url in asked[1:])
    assert faults == []


def numbers(page) -> list[int]:
    """The clips' numbers in the order of the visible rows."""
    prompts = page.locator("#sounds tbody tr:visible th").all_inner_texts()
    return [int(prompt.split("\n")[0].split()[-1]) for prompt in prompts]


def heading(page, text: str):
    return page.locator("#sounds thead button", has_text=text).first


def several(page) -> bool:
    return page.locator("#sounds.several").count() == 1


def until(page, condition: str) -> None:
    """Wait up to 10 s for an expression of JavaScript to hold.

    `wait_for_function` looks again by `eval` in the page, which the report's policy forbids.
    """
    end = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def test_all_players_load(opened):
    facts = opened.evaluate(
        """async () => Promise.all([...document.querySelectorAll("audio")].map((audio) =>
          new Promise((resolve, reject) => {
            audio.addEventListener("error", () => reject(audio.error.message));
            audio.addEventListener("loadeddata", () => resolve([audio.readyState, audio.duration,
              Number(audio.closest(".sound").dataset.seconds), audio.preload]));
            audio.preload = "auto";
            audio.load();
          })))"""
    )
    assert len(facts) == (12 if several(opened) else 6)
    for state, duration, seconds, _ in facts:
        assert state >= 2
        assert duration == pytest.approx(seconds, abs=0.1)


def test_players_wait_until_they_are_asked(opened):
    states = opened.evaluate("[...document.querySelectorAll('audio')].map((a) => a.readyState)")
    assert set(states) == {0}
    preloads = opened.evaluate("[...document.querySelectorAll('audio')].map((a) => a.preload)")
    assert set(preloads) == {"none"}


def test_all_pictures_show(opened):
    sizes = opened.evaluate(
        """async () => Promise.all([...document.images].map(async (image) => {
          await image.decode();
          return [image.naturalWidth, image.naturalHeight, image.clientWidth];
        }))"""
    )
    assert len(sizes) == (12 if several(opened) else 6)
    assert all(size[:2] == [320, 96] and size[2] >= 300 for size in sizes)


def test_the_worst_stand_first_and_what_has_no_score_last(opened):
    # by the lower of the two models' values; of one model by its own
    assert numbers(opened) == ([3, 1, 0, 5, 4, 2] if several(opened) else [1, 5, 2, 3, 0, 4])


def test_headings_sort_and_turn_round(opened):
    heading(opened, "P(family)").click()
    first = [1, 5, 2, 3, 0, 4]
    # with one model the page opens in this order already, so a click turns it round
    down = not several(opened)
    assert numbers(opened) == ([*first[-2::-1], 4] if down else first)
    column = opened.locator("#sounds th[aria-sort]:not([aria-sort=none])")
    assert column.count() == 1
    assert column.get_attribute("aria-sort") == ("descending" if down else "ascending")
    heading(opened, "CLAP").click()
    assert numbers(opened) == [0, 1, 2, 3, 4, 5]
    heading(opened, "CLAP").click()
    assert numbers(opened) == [5, 4, 3, 2, 1, 0]
    heading(opened, "predicted").click()
    assert [number // 2 for number in numbers(opened)] == [0, 0, 1, 1, 2, 2]


def test_the_list_sorts_by_everything(opened):
    options = opened.locator("#order option").all_inner_texts()
    scores = 4
    assert len(options) == 2 + (2 * scores + 2 if several(opened) else scores)
    opened.select_option("#order", label="prompt")
    prompts = opened.locator("#sounds tbody th").all_inner_texts()
    assert all(a.lower() < b.lower() for a, b in pairwise(prompts))
    opened.click("#turn")
    assert numbers(opened) == [5, 4, 3, 2, 1, 0]
    if several(opened):
        opened.select_option("#order", index=1)  # largest difference
        assert numbers(opened) == [0, 1, 3, 2, 5, 4]


def test_the_filter_takes_prompt_family_and_what_was_heard(opened):
    opened.fill("#filter", "BELL number")
    assert sorted(numbers(opened)) == [0, 1]  # 1 was heard as a bell
    assert opened.inner_text("#count") == "2 of 6"
    opened.fill("#filter", "")
    assert len(numbers(opened)) == 6


def test_one_player_sounds_at_a_time_from_where_its_picture_is_clicked(opened):
    sounds = opened.locator(".sound")
    sounds.nth(0).locator("button").click()
    playing = "[...document.querySelectorAll('audio')].filter((a) => !a.paused).length"
    until(opened, f"{playing} === 1")
    box = sounds.nth(1).locator(".mel").bounding_box()
    sounds.nth(1).locator(".mel").click(position={"x": box["width"] / 2, "y": 20})
    until(opened, "document.querySelectorAll('.playing').length === 1")
    start, seconds = sounds.nth(1).evaluate(
        "(s) => [s.querySelector('audio').currentTime, Number(s.dataset.seconds)]"
    )
    assert start >= 0.45 * seconds
    assert opened.evaluate(playing) == 1
    sounds.nth(1).locator("button").click()
    until(opened, f"{playing} === 0")


@pytest.mark.parametrize("width", [390, 1280])
def test_rows_fit_the_screen(opened, width):
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_the_report_of_the_bundled_model_on_real_captions(data_dir, tmp_path, browser_page):
    """What `soundcrafter evaluate captions --split test` writes, of four captions."""
    real = find_recordings(data_dir, "test")
    few = replace(real, files=dict(list(real.files.items())[:8]))
    evaluate_prompts(
        SoundCrafter.from_pretrained(device="cpu", precision="fp32"),
        caption_prompts(data_dir, "test"),
        few,
        [open_embedder("tagger"), open_embedder("clap")],
        tmp_path,
        name="mini",
        limit=4,
        splits=1,
    )
    write_html([tmp_path], tmp_path / "report.html")
    browser_page.goto((tmp_path / "report.html").as_uri())
    durations = browser_page.evaluate(
        """async () => Promise.all([...document.querySelectorAll("audio")].map((audio) =>
          new Promise((resolve, reject) => {
            audio.addEventListener("error", () => reject(audio.error.message));
            audio.addEventListener("loadeddata", () => resolve(audio.duration));
            audio.preload = "auto";
            audio.load();
          })))"""
    )
    assert durations == pytest.approx([5.0] * 4, abs=0.1)
    widths = browser_page.evaluate(
        """async () => Promise.all([...document.images].map(async (image) => {
          await image.decode();
          return image.naturalWidth;
        }))"""
    )
    assert len(widths) == 4
    assert min(widths) > 0

    def prompts() -> list[str]:
        found = browser_page.locator("#sounds tbody tr:visible th").all_inner_texts()
        return [text.split("\n")[0] for text in found]

    sounds = json.loads((tmp_path / "report.json").read_text())["sounds"]
    assert prompts() == [s["prompt"] for s in sorted(sounds, key=lambda s: s["clap"])]
    heading(browser_page, "prompt").click()
    assert prompts() == sorted((s["prompt"] for s in sounds), key=str.lower)
