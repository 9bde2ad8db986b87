import csv
import re

import pytest

from soundcrafter.audio import read_audio, write_audio
from soundcrafter.files import write_json
from soundcrafter.listening.analysis import analyse_listening
from soundcrafter.listening.answers import RESULT_COLUMNS
from soundcrafter.listening.listening_test import write_listening_test

RATE = 16_000
SYSTEMS = ("modelred", "modelblue")


@pytest.fixture(scope="module")
def tests_of(tmp_path_factory, clips):
    """A page of each kind, of half a second of three clips by two systems."""
    root = tmp_path_factory.mktemp("listen")
    files = sorted((clips / "audio").iterdir())[:3]
    for number, name in enumerate(SYSTEMS):
        rows = []
        (root / name / "generated").mkdir(parents=True)
        for place, file in enumerate(files):
            wave = read_audio(file, RATE, start=0.1 * number, seconds=0.4)
            write_audio(root / name / f"generated/{place}.wav", wave, RATE)
            rows.append({"file": f"generated/{place}.wav", "prompt": f"text {place}", "seed": 0})
        write_json(root / name / "report.json", {"sounds": rows})
    folders = {name: root / name for name in SYSTEMS}
    for kind in ("pairs", "mos"):
        write_listening_test(folders, root / kind, kind=kind)
    return root


def open_test(page, folder, listener=""):
    """The page, with its faults collected; they must stay none."""
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    address = (folder / "index.html").as_uri()
    page.goto(f"{address}?listener={listener}" if listener else address)
    return faults


def save(page, path):
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(path)
    with open(path, newline="", encoding="utf-8") as stream:
        return download.value.suggested_filename, list(csv.DictReader(stream))


def heard(page):
    page.wait_for_selector("fieldset:enabled")


def test_pairs_by_keys(browser_page, tests_of, tmp_path):
    page, folder = browser_page, tests_of / "pairs"
    faults = open_test(page, folder, "ann, the first")
    page.keyboard.press("Enter")
    assert page.inner_text("h1") == "Pair 1 of 3"
    assert page.locator("fieldset:enabled").count() == 0
    page.keyboard.press("1")  # not heard: no answer is taken
    assert page.locator("input:checked").count() == 0
    page.keyboard.press("a")  # A alone is not enough
    page.wait_for_selector(".player.done")
    assert page.locator("fieldset:enabled").count() == 0
    page.keyboard.press("b")
    heard(page)
    page.keyboard.press("1")
    assert page.is_disabled("#next")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    assert page.inner_text("h1") == "Pair 2 of 3"
    page.keyboard.press(" ")  # A, then B
    heard(page)
    page.keyboard.press("3")
    page.keyboard.press("1")
    name, rows = save(page, tmp_path / "results.csv")
    assert name == "results-ann--the-first.csv"
    assert tuple(rows[0]) == RESULT_COLUMNS
    assert [row["question"] for row in rows] == 2 * ["overall", "match"]
    assert [row["answer"] for row in rows] == ["A", "tie", "B", "A"]
    assert [row["order"] for row in rows] == ["1", "1", "2", "2"]
    assert all(float(row["seconds"]) > 0.3 for row in rows)
    report = analyse_listening([tmp_path / "results.csv"], folder / "key.csv", samples=100)
    with open(folder / "key.csv", newline="") as stream:
        system = {row["sound"]: row["system"] for row in csv.DictReader(stream)}
    sides = [[system[sound] for sound in row["sounds"].split()] for row in rows]
    preferred = [sides[0][0], sides[2][1]]  # overall: A of the first pair, B of the second
    (pair,) = report["questions"]["overall"]["pairs"]
    assert pair["systems"] == sorted(SYSTEMS)
    assert pair["wins"] == preferred.count(pair["systems"][0])
    assert pair["wins"] + pair["losses"] == 2
    assert report["questions"]["match"]["pairs"][0]["ties"] == 1
    assert faults == []


def test_grades_by_mouse_to_the_end(browser_page, tests_of, tmp_path):
    page, folder = browser_page, tests_of / "mos"
    faults = open_test(page, folder)
    page.get_by_role("button", name="Start").click()
    for place in range(1, 7):
        assert page.inner_text("h1") == f"Sound {place} of 6"
        page.get_by_role("button", name="Play the sound").click()
        heard(page)
        for group, grade in (("How good is the quality", "4 Good"), ("How well", "2 Poor")):
            page.get_by_role("group", name=re.compile(group)).get_by_label(grade).check()
        page.get_by_role("button", name="Next").click()
    assert page.inner_text("h1") == "Thank you"
    _, rows = save(page, tmp_path / "results.csv")
    assert re.fullmatch("p[0-9a-f]{1,8}", rows[0]["listener"])
    report = analyse_listening([tmp_path / "results.csv"], folder / "key.csv", samples=100)
    assert (report["items"], report["answers"], report["listeners"]) == (6, 12, 1)
    for system in SYSTEMS:
        assert report["questions"]["quality"]["systems"][system]["mean"] == 4.0
        assert report["questions"]["relevance"]["systems"][system]["mean"] == 2.0
    assert faults == []


def test_a_closed_page_loses_nothing(browser_page, tests_of, tmp_path):
    page, folder = browser_page, tests_of / "mos"
    open_test(page, folder)
    page.keyboard.press("Enter")
    page.keyboard.press(" ")
    heard(page)
    page.keyboard.press("5")
    page.keyboard.press("1")
    _, before = save(page, tmp_path / "before.csv")
    context = page.context
    page.close()
    page = context.new_page()
    faults = open_test(page, folder)  # the listener is remembered too
    page.get_by_role("button", name="Continue").click()
    assert page.inner_text("h1") == "Sound 2 of 6"
    page.click("#back")  # what was heard and answered can be changed without hearing it again
    assert page.is_checked("input[name=quality][value='5']")
    page.locator("input[name=quality][value='4']").check()
    _, after = save(page, tmp_path / "after.csv")
    assert [row["answer"] for row in after] == ["4", "1"]
    same = ("listener", "item", "order", "sounds")
    assert [[row[n] for n in same] for row in after] == [[row[n] for n in same] for row in before]
    report = analyse_listening(
        [tmp_path / "before.csv", tmp_path / "after.csv"], folder / "key.csv", samples=100
    )
    assert (report["answers"], report["duplicates"]) == (2, 2)
    assert report["questions"]["quality"]["systems"].popitem()[1]["mean"] == 4.0
    assert faults == []


def test_order_follows_from_the_listener(browser_page, tests_of):
    orders = []
    for listener in ("ann", "bob", "eve", "kim", "ann"):
        faults = open_test(browser_page, tests_of / "pairs", listener)
        orders.append(browser_page.evaluate("order.map((item) => [item.name, ...item.sounds])"))
        assert faults == []
    assert orders[0] == orders[4]
    assert len({str(order) for order in orders}) > 2
    assert len({str([item[0] for item in order]) for order in orders}) > 1
    sides = {item[0]: item[1] for item in orders[0]}
    assert any(sides[item[0]] != item[1] for order in orders for item in order)
    assert all(sorted(map(sorted, order)) == sorted(map(sorted, orders[0])) for order in orders)


def test_sides_and_places_are_even(browser_page, tests_of):
    open_test(browser_page, tests_of / "pairs", "ann")
    orders = browser_page.evaluate(
        "[...Array(2000).keys()].map((n) => orderFor(`p${n}`).map((i) => [i.name, ...i.sounds]))"
    )
    for item in orders[0]:
        share = sum(order[0][0] == item[0] for order in orders) / len(orders)
        assert share == pytest.approx(1 / 3, abs=0.05)
    sides = [first < second for order in orders for _, first, second in order]
    assert sum(sides) / len(sides) == pytest.approx(0.5, abs=0.03)


def test_one_sound_at_a_time(browser_page, tests_of):
    faults = open_test(browser_page, tests_of / "pairs", "ann")
    browser_page.keyboard.press("Enter")
    browser_page.keyboard.press("a")
    browser_page.keyboard.press("b")
    assert browser_page.locator(".player.active").count() == 1
    assert browser_page.locator(".player").nth(1).get_attribute("class").endswith("active")
    browser_page.keyboard.press(" ")  # stops all
    assert browser_page.locator(".player.active").count() == 0
    browser_page.wait_for_timeout(600)
    assert browser_page.locator(".player.done").count() == 0  # neither was heard to its end
    assert faults == []
