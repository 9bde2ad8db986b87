"""AudioCaps: draws that depend on nothing but seed and clip, fetching that survives a kill, and a
manifest that training takes."""

import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from soundcrafter import cli
from soundcrafter.audio import audio_info, write_audio
from soundcrafter.data.audiocaps import (
    STOP_AFTER,
    Clip,
    FetchError,
    FetchOptions,
    Selection,
    YouTube,
    prepare,
    read_entries,
    read_only,
    select,
)
from soundcrafter.data.manifest import read_manifest

FAST = FetchOptions(per_minute=60_000, retry_wait=0)
HEADER = "audiocap_id,youtube_id,start_time,caption"


def table(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def sound(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.full(round(seconds * 8000), 0.1, np.float32), 8000)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Network:
    """A stand-in: writes a sound, or fails as told: reasons to give, one a try."""

    def __init__(self, **faults: list[FetchError]) -> None:
        self.faults, self.asked = faults, []

    def __call__(self, clip: Clip, target: Path) -> None:
        self.asked.append(clip.name)
        if faults := self.faults.get(clip.youtube_id):
            target.write_bytes(b"half")
            raise faults.pop(0)
        sound(target)


def gone(reason: str = "Video unavailable") -> FetchError:
    return FetchError(reason)


def busy(reason: str = "HTTP Error 429: Too Many Requests") -> FetchError:
    return FetchError(reason, transient=True)


# --- tables and draws ---


@pytest.fixture(scope="module")
def tables(data_dir) -> list[Path]:
    folder = data_dir / "captions"
    return [folder / f"audiocaps_{split}.csv" for split in ("train", "val", "test")]


def test_the_first_version(tables):
    entries = read_entries(tables)
    assert Counter(e.split for e in entries) == {"train": 49838, "dev": 2475, "test": 4875}
    clips = Counter(split for _, split in {(e.key, e.split) for e in entries})
    assert clips == {"train": 49838, "dev": 495, "test": 975}
    one, _ = select(entries, Selection(one_caption=True))
    assert Counter(e.split for e in one) == clips
    begin = time.perf_counter()
    drawn, _ = select(read_entries(tables[:1]), Selection(random_validation=0.1))
    assert time.perf_counter() - begin < 5
    assert 4700 < sum(e.split == "dev" for e in drawn) < 5270  # 4 standard deviations


def test_the_second_version_has_the_same_columns(tmp_path):
    rows = [f"{n},id{n % 45_000:09d},{n // 45_000 * 10},sound {n}" for n in range(91_256)]
    entries = read_entries([table(tmp_path / "train.csv", *rows)])
    assert len(entries) == len({e.number for e in entries}) == 91_256
    assert {e.split for e in entries} == {"train"}


SELECTIONS = [
    Selection(one_caption=True),
    Selection(random_validation=0.3),
    Selection(limit=7),
    Selection(limit=20, one_caption=True, random_validation=0.5),
]


def many(tmp_path: Path) -> list:
    rows = [f"{n},clip{n // 5},{n // 5},caption {n}" for n in range(200)]
    return read_entries([table(tmp_path / "train.csv", *rows)])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_draws_do_not_depend_on_the_order(tmp_path, selection):
    entries = many(tmp_path)
    expected = {(e.number, e.split) for e in select(entries, selection)[0]}
    for shuffle in range(3):
        random.Random(shuffle).shuffle(entries)
        chosen, _ = select(entries, selection)
        assert {(e.number, e.split) for e in chosen} == expected
        places = {e.number: place for place, e in enumerate(entries)}
        assert [places[e.number] for e in chosen] == sorted(places[e.number] for e in chosen)
    other = select(entries, dataclasses.replace(selection, seed=1))[0]
    assert {(e.number, e.split) for e in other} != expected


def test_draws_of_a_clip_do_not_depend_on_the_others(tmp_path):
    entries = many(tmp_path)
    fewer = [e for e in entries if int(e.clip[4:]) % 3 == 0]
    for selection in SELECTIONS[:2]:
        whole = {(e.number, e.split) for e in select(entries, selection)[0]}
        part = {(e.number, e.split) for e in select(fewer, selection)[0]}
        assert part == {pair for pair in whole if int(pair[0]) // 5 % 3 == 0}
    small, large = (select(entries, Selection(limit=n))[0] for n in (5, 12))
    assert len({e.clip for e in small}) == 5
    assert {e.number for e in small} < {e.number for e in large}


def test_random_validation_takes_whole_clips(tmp_path):
    entries, _ = select(many(tmp_path), Selection(random_validation=0.5))
    for clip in {e.clip for e in entries}:
        assert len({e.split for e in entries if e.clip == clip}) == 1
    assert {e.split for e in entries} == {"train", "dev"}


def test_all_five_captions_are_drawn(tmp_path):
    rows = [f"{n},clip{n // 5},0,caption {n}" for n in range(5000)]
    entries = read_entries([table(tmp_path / "test.csv", *rows)])
    chosen, _ = select(entries, Selection(one_caption=True))
    counts = Counter(int(e.number) % 5 for e in chosen)
    assert all(150 < counts[place] < 250 for place in range(5))  # 1000 clips


def test_only(tmp_path):
    rows = ("1,aaaaaaaaaaa,0,Rain", "2,aaaaaaaaaaa,0,Rain falls", "3,bbbbbbbbbbb,5,A dog")
    entries = read_entries([table(tmp_path / "test.csv", *rows, "4,ccccccccccc,5,Wind")])

    def numbers(name: str, text: str) -> tuple[list[str], int]:
        (tmp_path / name).write_text(text)
        kept, unknown = read_only(tmp_path / name).choose(entries)
        return [e.number for e in kept], unknown

    assert numbers("a.csv", "youtube_id\naaaaaaaaaaa\nzzzzzzzzzzz\n") == (["1", "2"], 1)
    assert numbers("b.csv", "audiocap_id,youtube_id\n2,aaaaaaaaaaa\n") == (["2"], 0)
    assert numbers("c.csv", "audiocap_id\n3\n9\n") == (["3"], 1)
    assert numbers("d.txt", "Yaaaaaaaaaaa.wav\nccccccccccc\n") == (["1", "2", "4"], 0)
    published = [
        {"wav": "/mnt/p1/Yaaaaaaaaaaa.wav", "caption": "rain falls."},
        {"wav": "/mnt/p2/Ybbbbbbbbbbb.wav", "caption": "another wording"},
    ]
    assert numbers("e.json", json.dumps({"data": published})) == (["2", "3"], 0)
    lines = '{"dataset": "x", "location": "/d/aaaaaaaaaaa_0.wav", "captions": "Rain"}\n'
    assert numbers("f.json", lines) == (["1"], 0)
    with pytest.raises(ValueError, match="lists none of the clips"):
        select(entries, Selection(only=table(tmp_path / "g.csv", "nobody", header="youtube_id")))
    with pytest.raises(ValueError, match=r"h\.csv: has columns file; needs audiocap_id or"):
        read_only(table(tmp_path / "h.csv", "x", header="file"))
    with pytest.raises(ValueError, match=r"i\.txt: lists no clip"):
        numbers("i.txt", "\n")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (("1,a,x,Rain",), HEADER, r"train\.csv: row 1: .*start_time 'x'"),
        (("1,a,0,Rain", "2,../b,0,Rain"), HEADER, r"row 2: got youtube_id '\.\./b'"),
        (("1,a,0,",), HEADER, "row 1: .*caption ''"),
        (("1,a",), "file,caption", "has columns caption, file; needs caption, start_time, youtube"),
        ((), HEADER, r"train\.csv: no caption in it"),
    ],
)
def test_bad_tables_are_named(tmp_path, rows, header, message):
    with pytest.raises(ValueError, match=message):
        read_entries([table(tmp_path / "train.csv", *rows, header=header)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selection(random_validation=1), "random_validation: got 1; allowed: above 0"),
        (lambda: Selection(limit=0), "limit: got 0; allowed: 1 or more"),
        (lambda: FetchOptions(rate=0), "rate: got 0; allowed: 1000 to"),
        (lambda: FetchOptions(format="mp3"), "format: got 'mp3'; allowed: wav, flac"),
        (lambda: FetchOptions(per_minute=0), "per_minute: got 0; allowed: above 0"),
        (lambda: FetchOptions(retries=-1), "retries and retry_wait: allowed: 0 or more"),
        (lambda: FetchOptions(cookies=Path("none")), "none: no such file"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_validation_parts_are_refused(tmp_path):
    both = [table(tmp_path / f"{name}.csv", "1,a,0,Rain") for name in ("train", "val")]
    with pytest.raises(ValueError, match="needs a train table and no validation table"):
        select(read_entries(both), Selection(random_validation=0.1))


# --- fetching, with a stand-in for the network ---


@pytest.fixture
def five(tmp_path) -> Path:
    return table(tmp_path / "train.csv", *(f"{n},clip{n},{n * 10},Caption {n}" for n in range(5)))


def test_fetching_and_going_on(tmp_path, five):
    out, network, seen = tmp_path / "out", Network(clip1=[gone()], clip3=[busy()]), []
    facts = prepare(
        [five], out, options=FAST, fetch=network, progress=lambda *now: seen.append(now)
    )
    assert (facts["clips"], facts["fetched"], facts["failed"], facts["missing"]) == (4, 4, 1, 1)
    assert network.asked == [f"clip{n}_{n * 10}" for n in (0, 1, 2, 3, 3, 4)]
    assert seen == [(n, 5) for n in range(1, 6)]
    assert rows_of(out / "failures.csv") == [
        {"youtube_id": "clip1", "start_time": "10", "reason": "Video unavailable"}
    ]
    assert rows_of(out / "missing.csv")[0]["reason"] == "Video unavailable"
    assert sorted(p.name for p in out.iterdir()) == [
        *("audio", "failures.csv", "manifest.csv", "missing.csv")
    ]
    manifest = read_manifest(out, split="train", need_caption=True)
    assert [manifest.name(r) for r in manifest.recordings] == [
        f"audio/clip{n}_{n * 10}.wav" for n in (0, 2, 3, 4)
    ]
    assert [(r.caption, r.group, r.seconds) for r in manifest.recordings][1] == (
        *("Caption 2", "clip2"),
        0.1,
    )
    again = Network()
    assert prepare([five], out, options=FAST, fetch=again)["fetched"] == 0
    assert again.asked == [], "neither what is there nor what failed"
    options = dataclasses.replace(FAST, retry_failed=True)
    facts = prepare([five], out, options=options, fetch=again)
    assert again.asked == ["clip1_10"]
    assert (facts["clips"], facts["failed"], facts["missing"]) == (5, 0, 0)
    assert rows_of(out / "failures.csv") == []


def test_the_names_are_those_that_the_own_tables_reader_finds(tmp_path, five):
    prepare([five], tmp_path, options=FAST, fetch=Network())
    (tmp_path / "manifest.csv").unlink()
    assert len(read_manifest(five, need_caption=True).recordings) == 5


def test_clips_of_one_video_are_told_apart(tmp_path):
    two = table(tmp_path / "train.csv", "1,aaaaaaaaaaa,0,Rain", "2,aaaaaaaaaaa,30,Wind")
    sound(tmp_path / "out" / "Yaaaaaaaaaaa.wav")  # does not say which of the two it is
    facts = prepare([two], tmp_path / "out", options=FAST, fetch=Network())
    assert facts["fetched"] == 2
    assert [r["file"] for r in rows_of(tmp_path / "out" / "manifest.csv")] == [
        "audio/aaaaaaaaaaa_0.wav",
        "audio/aaaaaaaaaaa_30.wav",
    ]


def test_only_what_may_pass_is_tried_again(tmp_path, five):
    network = Network(clip0=[busy() for _ in range(9)], clip1=[gone("Private video")])
    facts = prepare([five], tmp_path / "out", options=FAST, fetch=network)
    once = {f"clip{n}_{n * 10}": 1 for n in range(1, 5)}
    assert Counter(network.asked) == {"clip0_0": 3, **once}
    assert facts["failed"] == 2
    reasons = {row["youtube_id"]: row["reason"] for row in rows_of(tmp_path / "out/failures.csv")}
    assert reasons == {"clip0": "HTTP Error 429: Too Many Requests", "clip1": "Private video"}


def test_a_network_that_is_down_is_not_the_clips_fault(tmp_path):
    count = STOP_AFTER + 5
    rows = [f"{n},clip{n},0,Caption" for n in range(count)]
    train = table(tmp_path / "train.csv", *rows)
    network = Network(**{f"clip{n}": [busy()] for n in range(2, count)})
    options = dataclasses.replace(FAST, retries=0)
    facts = prepare([train], tmp_path / "out", options=options, fetch=network)
    assert len(network.asked) == 2 + STOP_AFTER
    assert f"{STOP_AFTER} clips in a row were refused, the last: HTTP Error 429" in facts["stopped"]
    assert (facts["clips"], facts["failed"]) == (2, 0)
    assert rows_of(tmp_path / "out/failures.csv") == []
    facts = prepare([train], tmp_path / "out", options=options, fetch=Network())
    assert (facts["clips"], facts["fetched"], facts["stopped"]) == (count, count - 2, None)


def test_what_is_no_sound_is_a_failure(tmp_path, five):
    def fetch(clip: Clip, target: Path) -> None:
        target.write_bytes(b"<html>")

    facts = prepare([five], tmp_path / "out", options=FAST, fetch=fetch)
    assert (facts["clips"], facts["failed"]) == (0, 5)
    assert rows_of(tmp_path / "out/failures.csv")[0]["reason"].startswith("not a sound: cannot")
    assert list((tmp_path / "out" / "audio").iterdir()) == []


def test_pace(tmp_path, five):
    options = dataclasses.replace(FAST, per_minute=600)
    begin = time.monotonic()
    prepare([five], tmp_path / "out", options=options, fetch=Network(clip0=[busy()]))
    assert 0.49 < time.monotonic() - begin < 5, "six tries, a tenth of a second apart"


def test_ctrl_c_leaves_a_manifest(tmp_path, five):
    network = Network()

    def fetch(clip: Clip, target: Path) -> None:
        if clip.youtube_id == "clip3":
            raise KeyboardInterrupt
        network(clip, target)

    with pytest.raises(KeyboardInterrupt):
        prepare([five], tmp_path / "out", options=FAST, fetch=fetch)
    assert len(read_manifest(tmp_path / "out").recordings) == 3
    assert len(rows_of(tmp_path / "out/missing.csv")) == 2
    assert not list((tmp_path / "out").glob(".*"))


KILLED = """
import sys, time
from pathlib import Path
from soundcrafter.audio import write_audio
from soundcrafter.data.audiocaps import FetchOptions, prepare
import numpy as np

def fetch(clip, target):
    if clip.youtube_id == "clip3":
        target.write_bytes(b"RIFF half a file")
        print(target, flush=True)
        time.sleep(600)
    write_audio(target, np.zeros(800, np.float32), 8000)

prepare([Path(sys.argv[1])], Path(sys.argv[2]), options=FetchOptions(per_minute=60000), fetch=fetch)
"""


def test_a_killed_run_leaves_nothing_half_written(tmp_path, five):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(five), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    half = Path(process.stdout.readline().strip())
    assert half.is_file()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    whole = sorted(path.name for path in (out / "audio").iterdir())
    assert whole == ["clip0_0.wav", "clip1_10.wav", "clip2_20.wav"]
    assert all(audio_info(out / "audio" / name).num_samples == 800 for name in whole)
    network = Network()
    assert prepare([five], out, options=FAST, fetch=network)["clips"] == 5
    assert network.asked == ["clip3_30", "clip4_40"]
    assert not half.parent.exists()


# --- folders that are there already, and others' metadata ---


@pytest.mark.parametrize(
    "name",
    [
        "Yaaaaaaaaaaa.wav",
        "aaaaaaaaaaa.flac",
        "aaaaaaaaaaa_30.wav",
        "Yaaaaaaaaaaa_30.ogg",
        "aaaaaaaaaaa_30_40.wav",
        "aaaaaaaaaaa_30000_40000.wav",
        "Yaaaaaaaaaaa_30.000_40.000.wav",
        "aaaaaaaaaaa_000030.wav",
        "train/Yaaaaaaaaaaa.WAV",
        "deep/down/aaaaaaaaaaa_30.wav",
    ],
)
def test_clips_under_any_name(tmp_path, name):
    train = table(tmp_path / "train.csv", "1,aaaaaaaaaaa,30,Rain", "2,bbbbbbbbbbb,0,Wind")
    file = tmp_path / "clips" / name
    sound(file.with_suffix(file.suffix.lower())).rename(file)
    facts = prepare([train], tmp_path / "out", audio=tmp_path / "clips")
    assert (facts["clips"], facts["missing"], facts["fetched"]) == (1, 1, 0)
    (recording,) = read_manifest(tmp_path / "out").recordings
    assert recording.file == file
    (missing,) = rows_of(tmp_path / "out/missing.csv")
    expected = ("bbbbbbbbbbb", "0", "train", "not there")
    assert tuple(missing.values()) == expected


def test_unreadable_clips_are_listed(tmp_path):
    train = table(tmp_path / "train.csv", "1,aaaaaaaaaaa,30,Rain", "2,bbbbbbbbbbb,0,Wind")
    sound(tmp_path / "clips/Yaaaaaaaaaaa.wav")
    (tmp_path / "clips/Ybbbbbbbbbbb.wav").write_bytes(b"nothing")
    facts = prepare([train], tmp_path / "clips", audio=tmp_path / "clips")
    assert rows_of(tmp_path / "clips/manifest.csv")[0]["file"] == "Yaaaaaaaaaaa.wav"
    assert facts["missing"] == 1
    assert "cannot read" in rows_of(tmp_path / "clips/missing.csv")[0]["reason"]


def test_nothing_there_is_an_error(tmp_path, five):
    (tmp_path / "clips").mkdir()
    with pytest.raises(ValueError, match="clips: none of the 5 clips is there"):
        prepare([five], tmp_path / "out", audio=tmp_path / "clips")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        prepare([five], tmp_path / "out", audio=tmp_path / "nowhere")


def test_metadata_of_others_becomes_a_manifest(tmp_path):
    data = [
        {"wav": "part1/Yaaaaaaaaaaa.wav", "caption": "Rain", "labels": "/m/1,/m/2"},
        {"wav": "part2/Ybbbbbbbbbbb.wav", "caption": "Wind"},
    ]
    (tmp_path / "test.json").write_text(json.dumps({"data": data}))
    line = {"dataset": "audiocaps", "location": "/gone/ccccccccccc_30.wav", "captions": "Hail"}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    sound(tmp_path / "part1/Yaaaaaaaaaaa.wav")
    tables = [tmp_path / "test.json", tmp_path / "train.jsonl"]
    facts = prepare(tables, tmp_path)
    assert (facts["splits"], facts["missing"]) == ({"test": 1}, 2), "no fetching of others' files"
    (row,) = rows_of(tmp_path / "manifest.csv")
    assert (row["file"], row["labels"]) == ("part1/Yaaaaaaaaaaa.wav", "/m/1,/m/2")
    sound(tmp_path / "mine/bbbbbbbbbbb_70.wav")
    sound(tmp_path / "mine/Yccccccccccc.wav")
    facts = prepare(tables, tmp_path / "out", audio=tmp_path / "mine")
    assert (facts["splits"], facts["missing"]) == ({"test": 2, "train": 1}, 0)
    recordings = read_manifest(tmp_path / "out").recordings
    assert [r.group for r in recordings] == ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"]


# --- the command line, with yt-dlp and ffmpeg played by small scripts ---

YT_DLP = """
import os, sys
from pathlib import Path
home = Path(__file__).parent
with open(home / "calls", "a") as log:
    log.write(repr(sys.argv[1:]) + "\\n")
url = sys.argv[-1]
if url.endswith("goneaaaaaaa"):
    sys.exit("ERROR: [youtube] goneaaaaaaa: Video unavailable")
once = home / "once"
if url.endswith("busyaaaaaaa") and not once.exists():
    once.touch()
    sys.exit("ERROR: [youtube] busyaaaaaaa: HTTP Error 429: Too Many Requests")
if url.endswith("fullaaaaaaa"):
    sys.exit("ERROR: unable to write data: [Errno 28] No space left on device")
template = sys.argv[sys.argv.index("--output") + 1]
Path(template.replace("%(ext)s", "webm")).write_text(url)
"""
FFMPEG = """
import sys, wave
from pathlib import Path
arguments = sys.argv[1:]
assert Path(arguments[arguments.index("-i") + 1]).read_text().startswith("https://")
rate = int(arguments[arguments.index("-ar") + 1])
with wave.open(arguments[-1], "wb") as file:
    file.setparams((int(arguments[arguments.index("-ac") + 1]), 2, rate, 0, "NONE", ""))
    file.writeframes(bytes(2 * 10 * rate))
"""


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A folder with a yt-dlp and an ffmpeg that play the real ones, alone on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in (("yt-dlp", YT_DLP), ("ffmpeg", FFMPEG)):
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def run(monkeypatch, capfd):
    def call(*arguments: object) -> tuple[int, str, str]:
        words = ["soundcrafter", "data", "audiocaps", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capfd.readouterr())

    return call


def test_command(tmp_path, tools, run):
    clips = ("goodaaaaaaa", "goneaaaaaaa", "busyaaaaaaa", "-dashaaaaaa")
    csv_file = table(tmp_path / "val.csv", *(f"{n},{c},{n}0,Rain" for n, c in enumerate(clips)))
    quick = ("--per-minute", 60_000, "--retry-wait", 0, "--rate", 8000)
    code, text, _ = run(csv_file, "--out", tmp_path / "out", *quick, "--json")
    facts = json.loads(text)
    assert code == 0
    assert facts["splits"] == {"dev": 3}
    assert (facts["fetched"], facts["failed"], facts["stopped"]) == (3, 1, None)
    (failure,) = rows_of(tmp_path / "out/failures.csv")
    assert failure["reason"] == "yt-dlp: [youtube] goneaaaaaaa: Video unavailable"
    recordings = read_manifest(tmp_path / "out", split="dev").recordings
    assert [r.seconds for r in recordings] == [10, 10, 10]
    assert audio_info(recordings[0].file).sample_rate == 8000
    calls = (tools / "calls").read_text().splitlines()
    assert [sum(clip in call for call in calls) for clip in clips] == [1, 1, 2, 1]
    assert "'--download-sections', '*30-41', '--force-keyframes-at-cuts'" in calls[-1]
    code, text, _ = run(csv_file, "--out", tmp_path / "out", *quick)
    assert "clips: 3  captions: 3" in text
    assert "fetched now: 0  failed: 1" in text
    assert len((tools / "calls").read_text().splitlines()) == len(calls), "nothing asked again"


def refused(result: tuple[int, str, str]) -> str:
    code, out, error = result
    assert (code, out) == (2, "")
    assert len(error.strip().splitlines()) == 1
    return error


def test_command_says_what_is_missing(tmp_path, tools, run, monkeypatch, five):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tools / "yt-dlp").unlink()
    message = refused(run(five, "--out", tmp_path / "out"))
    assert "needs yt-dlp: pip install 'soundcrafter[data]'" in message
    (tools / "yt-dlp").touch(mode=0o755)
    (tools / "ffmpeg").unlink()
    assert "needs ffmpeg" in refused(run(five, "--out", tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.csv").exists()
    # what needs no network needs no tools
    for n in range(5):
        sound(tmp_path / f"clips/Yclip{n}.wav")
    assert run(five, "--out", tmp_path / "out", "--audio", tmp_path / "clips")[0] == 0
    assert "limit: got 0" in refused(run(five, "--out", tmp_path / "out", "--limit", 0))


def test_a_full_disk_is_no_fault_of_the_clip(tmp_path, tools, run):
    csv_file = table(tmp_path / "val.csv", "1,fullaaaaaaa,0,Rain")
    message = refused(run(csv_file, "--out", tmp_path / "out", "--per-minute", 60_000))
    assert "No space left on device" in message
    assert not (tmp_path / "out/failures.csv").exists()


def test_command_stops_where_all_is_refused(tmp_path, tools, run):
    (tools / "yt-dlp").write_text(f"#!{sys.executable}\nimport sys; sys.exit('HTTP Error 429')")
    rows = [f"{n},clip{n},0,Rain" for n in range(STOP_AFTER + 2)]
    csv_file = table(tmp_path / "val.csv", *rows)
    quick = ("--per-minute", 60_000, "--retries", 0)
    code, out, error = run(csv_file, "--out", tmp_path / "out", *quick, "--json")
    assert code == 2
    assert json.loads(out)["clips"] == 0
    assert "10 clips in a row were refused" in error


def test_a_hanging_download_is_ended_with_its_children(tmp_path, tools, monkeypatch):
    monkeypatch.setattr("soundcrafter.data.audiocaps.TIMEOUT", 1)
    hang = "import subprocess, sys, time\nif len(sys.argv) > 2:\n"
    hang += "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    hang += f"    open({str(tools / 'child')!r}, 'w').write(str(child.pid))\ntime.sleep(600)"
    (tools / "yt-dlp").write_text(f"#!{sys.executable}\n{hang}")
    (tmp_path / "stage").mkdir()
    with pytest.raises(FetchError, match="timed out after 1 s") as error:
        YouTube(FAST)(Clip(youtube_id="a", start=0), tmp_path / "stage" / "a_0.wav")
    assert error.value.transient
    child, deadline = int((tools / "child").read_text()), time.monotonic() + 20
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_real_yt_dlp_understands_the_command(tools):
    yt_dlp = pytest.importorskip("yt_dlp")
    command = YouTube(FAST).download_command(Clip(youtube_id="-abcdefghij", start=30))
    options = yt_dlp.parse_options(command[1:])
    assert options.urls == ["https://www.youtube.com/watch?v=-abcdefghij"]
    parsed = options.ydl_opts
    assert parsed["format"] == "bestaudio/best"
    assert parsed["force_keyframes_at_cuts"]
    assert parsed["external_downloader_args"]["ffmpeg_o"] == [
        *("-vn", "-c:a", "flac", "-f", "matroska")
    ]
    (section,) = parsed["download_ranges"]({}, None)
    assert (section["start_time"], section["end_time"]) == (30, 41)
