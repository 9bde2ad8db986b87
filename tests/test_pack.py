"""`soundcrafter pack`: takes, their level, the manifest, resumption, the contact sheet."""

import csv
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.files import locked
from soundcrafter.loudness import loudness
from soundcrafter.pack import COLUMNS, Pack, PackSound, read_manifest, read_pack

Run = Callable[..., Any]  # the conftest's `run`
Write = Callable[..., Path]

RAIN = '[[sound]]\nprompt = "rain"\nseconds = 0.4\nsteps = 1\ncandidates = 1\n'
DOOR = '[[sound]]\nprompt = "a door, slammed"\nname = "Door"\ntakes = 1\nseconds = 0.3\nsteps = 1\n'


@pytest.fixture
def write(tiny_model: Path, tmp_path: Path) -> Write:
    """Writes a pack of the tiny model, two takes of each sound."""

    def call(*sounds: str, head: str = "takes = 2", model: Path = tiny_model) -> Path:
        file = tmp_path / "pack.toml"
        lines = ['name = "Weather"', f'model = "{model}"', head, *sounds]
        file.write_text("\n".join(lines), encoding="utf-8")
        return file

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def changed(before: dict[str, bytes], folder: Path) -> set[str]:
    now = contents(folder)
    return {name for name in before | now if before.get(name) != now.get(name)}


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


# --- the file ---


def test_the_docs_list_every_key_and_their_example_is_a_pack(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[1] / "docs" / "packs.md").read_text(encoding="utf-8")
    (tmp_path / "pack.toml").write_text(re.findall(r"```toml\n(.*?)```", docs, re.DOTALL)[0])
    assert len(read_pack(tmp_path / "pack.toml").planned(SamplingConfig())) == 10
    tables = docs.partition("## Keys")[2].split("| key of a `[[sound]]`")
    for settings, table in zip((Pack, PackSound), tables, strict=True):
        cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        listed = re.findall(r"\w+", " ".join(cells))
        assert sorted([*listed, *(["sound"] if settings is Pack else [])]) == sorted(
            field.name for field in fields(settings)
        )


# --- making ---


def test_a_pack_has_takes_a_manifest_and_a_sheet(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("pack", write(RAIN, DOOR), "-o", out)
    assert done.code == 0
    files = ["rain-01.wav", "rain-02.wav", "Door-01.wav"]
    assert sorted(contents(out)) == sorted([*files, "index.html", "manifest.csv"])
    assert list(rows(out)) == files
    assert done.out.count("\n") == 4
    for file, row in rows(out).items():
        assert tuple(row) == COLUMNS
        info = soundfile.info(out / file)
        assert (info.samplerate, info.subtype) == (48_000, "PCM_24")
        wave, rate = soundfile.read(out / file, dtype="float32")
        assert float(row["seconds"]) == pytest.approx(len(wave) / rate, abs=1e-3)
        assert float(row["loudness"]) == pytest.approx(loudness(wave, rate), abs=0.06)
        assert float(row["peak"]) == pytest.approx(20 * np.log10(abs(wave).max()), abs=0.01)
        assert -1 <= float(row["score"]) <= 1
        assert (row["pack"], row["state"]) == ("Weather", "made")
    first, second, door = rows(out).values()
    assert int(second["seed"]) == int(first["seed"]) + 1
    assert int(door["seed"]) not in (int(first["seed"]), int(second["seed"]))
    assert (door["name"], door["take"], door["prompt"]) == ("Door", "1", "a door, slammed")


def test_a_take_is_what_its_seed_gives_alone(run: Run, write: Write, tmp_path: Path) -> None:
    run("pack", write(RAIN, head="takes = 3\nseed = 7"), "-o", tmp_path / "out")
    row = rows(tmp_path / "out")["rain-02.wav"]
    options = ("--seconds", 0.4, "--steps", 1, "--candidates", 1, "--seed", row["seed"])
    form = ("--rate", 48000, "--depth", 24, "--lufs", -23)
    model = ("--model", read_pack(tmp_path / "pack.toml").model)
    run("generate", "rain", "-o", tmp_path / "one.wav", *options, *form, *model)
    assert (tmp_path / "out" / "rain-02.wav").read_bytes() == (tmp_path / "one.wav").read_bytes()


def test_sounds_are_levelled(run: Run, write: Write, tmp_path: Path) -> None:
    quiet, loud = RAIN + "gain = -6", RAIN + 'name = "loud"\nlufs = 0'
    out = tmp_path / "out"
    head = "takes = 1\nlufs = -40\nseed = 3"
    done = run("pack", write(DOOR, quiet, loud, head=head), "-o", out)
    levels = {file: float(row["loudness"]) for file, row in rows(out).items()}
    assert levels["Door-01.wav"] == pytest.approx(-40, abs=0.06)
    assert levels["rain-01.wav"] == pytest.approx(-46, abs=0.06)
    # a peak never clips; what it keeps from being as loud as the others is said
    assert float(rows(out)["loud-01.wav"]["peak"]) == pytest.approx(20 * np.log10(0.99), abs=0.01)
    assert "quieter than wanted: 1 take," in done.err
    assert (out / "index.html").read_text().count(">at full scale<") == 1


def test_loops_and_formats(run: Run, write: Write, tmp_path: Path) -> None:
    head = 'takes = 1\nrate = 22050\ndepth = 16\nformat = "flac"\nname_template = "{slug}_{take}"'
    out = tmp_path / "out"
    assert run("pack", write(RAIN + "loop = true", head=head), "-o", out).code == 0
    info = soundfile.info(out / "rain_1.flac")
    assert (info.samplerate, info.subtype, info.format) == (22_050, "PCM_16", "FLAC")
    assert "<audio controls" in (out / "index.html").read_text()
    assert " loop " in (out / "index.html").read_text()


def test_an_adapter_changes_the_takes(
    run: Run, write: Write, tiny_model: Path, tiny_recipe: Path, clips: Path, tmp_path: Path
) -> None:
    given = ("--init", tiny_model, "--lora", 2, "--data", clips, "--out", tmp_path / "mine")
    short = ("--set", "diffusion.steps=2", "--set", "diffusion.learning_rate=0.1")
    run("train", "diffusion", "--recipe", tiny_recipe, *given, *short, "--device", "cpu")
    plain, out = tmp_path / "plain", tmp_path / "out"
    run("pack", write(RAIN), "-o", plain)
    # named relative to the file
    assert run("pack", write(RAIN, '[adapters]\n"mine" = 0.8'), "-o", out).code == 0
    assert {"rain-01.wav", "rain-02.wav"} <= changed(contents(plain), out)
    weaker = write(RAIN, '[adapters]\n"mine" = 0.5')
    assert "2 made, 0 kept" in run("pack", weaker, "-o", out).out


# --- going on ---


def test_what_is_there_is_kept(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = write(RAIN, DOOR)
    run("pack", file, "-o", out)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    assert "0 made, 3 kept" in run("pack", file, "-o", out).out
    assert changed(before, out) == set()
    (out / "rain-02.wav").unlink()
    assert "1 made, 2 kept" in run("pack", file, "-o", out).out
    assert changed(before, out) == set()


def test_only_changed_sounds_are_made_again(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("pack", write(RAIN, DOOR), "-o", out)
    before = contents(out)
    longer = DOOR.replace("0.3", "0.5")
    assert "1 made, 2 kept" in run("pack", write(RAIN, longer), "-o", out).out
    assert changed(before, out) == {"Door-01.wav", "manifest.csv", "index.html"}
    # more takes, another order: the others stay as they are
    before = contents(out)
    done = run("pack", write(longer, RAIN, head="takes = 3"), "-o", out)
    assert "1 made, 3 kept" in done.out
    assert changed(before, out) == {"rain-03.wav", "manifest.csv", "index.html"}


def test_another_model_makes_all_again(
    run: Run, write: Write, model_copy: Path, tmp_path: Path
) -> None:
    from soundcrafter.store import open_folder, save_part

    out = tmp_path / "out"
    run("pack", write(RAIN), "-o", out)
    assert "0 made, 2 kept" in run("pack", write(RAIN, model=model_copy), "-o", out).out
    folder = open_folder(model_copy)
    unet, entry = folder.load("unet"), folder.parts["unet"]
    next(unet.parameters()).data += 0.01
    save_part(model_copy, "unet", unet, entry.config, trained_against=entry.trained_against)
    assert "2 made, 0 kept" in run("pack", write(RAIN, model=model_copy), "-o", out).out


def test_takes_that_are_no_longer_named_stay(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("pack", write(RAIN, DOOR), "-o", out)
    before = contents(out)
    done = run("pack", write(RAIN, head="takes = 1"), "-o", out)
    assert "no longer in the pack, but not deleted: rain-02.wav, Door-01.wav" in done.err
    assert changed(before, out) == {"manifest.csv", "index.html"}
    assert [row.state for row in read_manifest(out)] == ["made", "dropped", "dropped"]
    assert "Door" not in (out / "index.html").read_text()
    # and are the pack's again as soon as it names them
    assert "0 made, 3 kept" in run("pack", write(RAIN, DOOR), "-o", out).out
    assert changed(before, out) == set()


def test_a_killed_process_goes_on(run: Run, launch: Run, write: Write, tmp_path: Path) -> None:
    slow = RAIN.replace("0.4", "2").replace("steps = 1", "steps = 20")
    file = write(DOOR, slow, head="takes = 6")
    out, whole = tmp_path / "out", tmp_path / "whole"
    least = 2
    process = launch("pack", file, "-o", out)
    end = time.monotonic() + 120
    while len(list(out.glob("*.wav"))) < least:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.002)
    process.kill()
    assert least <= len(list(out.glob("*.wav"))) < 7
    assert {row.state for row in read_manifest(out)} == {"planned", "made"}
    (out / ".rain-06.wav.123.tmp").write_bytes(b"half")
    for folder in (out, whole):
        assert run("pack", file, "-o", folder).code == 0
    assert len(contents(whole)) == 9
    assert contents(out) == contents(whole)


def test_one_process_at_a_time(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        assert "is writing to it" in run("pack", write(RAIN), "-o", out).refused()


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[[sound]]\nprmpt = "rain"', "pack.toml.sound[0].prmpt: unknown setting; did you mean"),
        (RAIN + "[adaptors]", "adaptors: unknown setting; did you mean adapters?"),
        ("[[sound]]\nname = 'rain'", "sound[0].prompt: this setting is required"),
        ('[[sound]]\nprompt = " "', "sound[0]: prompt: must not be empty"),
        (RAIN + RAIN, "sound: two sounds have the name 'rain'"),
        (RAIN + RAIN.replace("rain", "Rain") + 'name = "RAIN"', "two sounds have the name 'RAIN'"),
        (RAIN + 'name = "a/b"', "sound[0]: name: got 'a/b'; allowed: no folders"),
        (RAIN + "takes = 0", "sound[0]: takes: got 0; allowed: 1 to"),
        (RAIN + "takes = true", "sound[0].takes: expected int"),
        (RAIN + "seed = -1", "sound[0]: seed: got -1; allowed: 0 to"),
        (RAIN.replace("0.4", "0.1"), "sound[0]: seconds: got 0.1"),
        (RAIN + "guidance = nan", "sound[0].guidance: got nan"),
        (RAIN + "lufs = 3", "sound[0]: lufs: got 3.0; allowed: -70 to 0"),
        (RAIN + "lufs = -20\ngain = 1", "lufs: cannot be combined with gain"),
        (RAIN + '[adapters]\n"mine" = "strong"', "adapters.mine: expected float"),
        (RAIN + '[adapters]\n"nowhere" = 1', "nowhere"),
        ("sound = []", "the pack has no sounds"),
        ("sound = 3", "sound: expected a list"),
        ("[[sound]", "not TOML"),
    ],
)
def test_faulty_packs(run: Run, write: Write, tmp_path: Path, text: str, fault: str) -> None:
    assert fault in run("pack", write(text), "-o", tmp_path / "out").refused()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("rate = 100", "rate: got 100; allowed: 8000 to 192000"),
        ("depth = 20", "depth: got '20'; allowed: 16, 24, float"),
        ('format = "mp3"', "format: got 'mp3'; allowed: wav, flac, ogg"),
        ('format = "ogg"', "depth: got '24' for .ogg; allowed: 16"),
        ('name_template = "{word}"', "name_template: got '{word}': unknown field {word}"),
        ('name_template = "{name}"', "two takes have the file name 'rain.wav'"),
        ('name_template = "a/{index}"', "name_template: got 'a/1'; allowed: no folders"),
        ("seed = -1", "seed: got -1; allowed: 0 to"),
        ("seed = 18446744073709551615", "seed: got"),
        ("takes = 10000000", "takes: got 10000000; allowed: 1 to 10000"),
    ],
)
def test_faulty_settings_of_a_pack(
    run: Run, write: Write, tmp_path: Path, head: str, fault: str
) -> None:
    assert fault in run("pack", write(RAIN, head=head), "-o", tmp_path / "out").refused()
    assert not (tmp_path / "out").exists()


def test_missing_files_and_models(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "gone.toml" in run("pack", tmp_path / "gone.toml", "-o", out).refused()
    nowhere = write(RAIN, model=tmp_path / "nowhere")
    assert "nowhere" in run("pack", nowhere, "-o", out).refused()
    assert "-o" in run("pack", write(RAIN)).refused()
    assert not out.exists()
    out.write_text("a file")
    assert "cannot create the folder" in run("pack", write(RAIN), "-o", out).refused()


def test_files_of_others_are_not_touched(run: Run, write: Write, tmp_path: Path) -> None:
    file = write(RAIN)
    for name in ("rain-02.wav", "index.html", "manifest.csv"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("mine")
        assert name in run("pack", file, "-o", out).refused()
        assert contents(out) == {name: b"mine"}


def test_two_packs_do_not_share_a_folder(run: Run, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("pack", write(RAIN), "-o", out)
    before = contents(out)
    other = tmp_path / "other.toml"
    other.write_text(write(RAIN).read_text().replace("Weather", "Rain"))
    message = run("pack", other, "-o", out).refused()
    assert "contains the pack 'Weather', not 'Rain'" in message
    assert changed(before, out) == set()


def test_a_damaged_manifest_is_refused(run: Run, write: Write, tmp_path: Path) -> None:
    out, file = tmp_path / "out", write(RAIN)
    run("pack", file, "-o", out)
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(text.replace("rain,1", "rain,one"))
    assert "manifest.csv: row 1: damaged" in run("pack", file, "-o", out).refused()
    (out / "manifest.csv").unlink()
    os.mkfifo(out / "manifest.csv")
    assert "not the manifest of a pack" in run("pack", file, "-o", out).refused()


def test_control_characters_are_not_allowed_in_the_name(
    run: Run, write: Write, tmp_path: Path
) -> None:
    file = write(RAIN)
    file.write_text(file.read_text().replace("Weather", "Weather\\u0007"))
    assert "name: contains U+0007" in run("pack", file, "-o", tmp_path / "out").refused()
    assert not (tmp_path / "out").exists()


# --- the contact sheet ---


@pytest.fixture
def sheet(run: Run, write: Write, browser_page: Any, tmp_path: Path) -> Any:
    """The opened contact sheet of a pack with awkward names, in a folder that was moved."""
    odd = RAIN.replace('"rain"', "'<b>rain</b> & \"hail\"'") + "name = \"50% <rain> & 'hail' #1\""
    odd = odd.replace("<rain>", "rain")  # no file may be called so
    assert run("pack", write(odd, RAIN + "loop = true"), "-o", tmp_path / "out").code == 0
    shutil.move(tmp_path / "out", tmp_path / "moved")
    asked: list[str] = []
    faults: list[str] = []
    browser_page.on("request", lambda r: asked.append(r.url))
    browser_page.on("console", lambda m: faults.append(m.text))
    browser_page.on("pageerror", lambda e: faults.append(str(e)))
    browser_page.goto((tmp_path / "moved" / "index.html").as_uri())
    yield browser_page
    assert all(url.startswith(("data:", (tmp_path / "moved").as_uri())) for url in asked)
    assert faults == []


def test_the_sheet_plays_every_take(sheet: Any) -> None:
    facts = sheet.evaluate(
        """async () => Promise.all([...document.querySelectorAll("audio")].map((audio) =>
          new Promise((resolve, reject) => {
            audio.addEventListener("error", () => reject(audio.error.message));
            audio.addEventListener("loadeddata", () => resolve([audio.duration,
              Number(audio.closest(".sound").dataset.seconds), audio.loop]));
            audio.preload = "auto";
            audio.load();
          })))"""
    )
    assert [loop for *_, loop in facts] == [False, False, True, True]
    for duration, seconds, _ in facts:
        assert duration == pytest.approx(seconds, abs=0.01)
    assert sheet.locator("h2").all_inner_texts() == ["50% rain & 'hail' #1", "rain"]
    assert sheet.locator("h2 + p").first.inner_text() == '<b>rain</b> & "hail"'
    assert sheet.locator("a[download]").count() == 4


def test_the_sheet_works_from_the_keyboard(sheet: Any) -> None:
    sheet.locator("a", has_text="manifest.csv").focus()
    sheet.keyboard.press("Tab")
    assert sheet.evaluate("document.activeElement.ariaLabel").startswith("Play: 50% rain")
    sheet.locator(".sound button").nth(2).focus()  # a loop, which does not end meanwhile
    sheet.keyboard.press("Enter")
    sheet.locator(".playing").wait_for()
    assert sheet.locator(".playing button").evaluate("(b) => b === document.activeElement")
    sheet.keyboard.press("Space")
    sheet.locator(".playing").wait_for(state="detached")
