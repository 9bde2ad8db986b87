"""Fetching clips: it survives a kill, a busy network and what is gone, and asks nothing twice."""

import dataclasses
import json
import os
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
from soundcrafter.data.audiocaps import prepare
from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.tables import read_table
from soundcrafter.data.youtube import (
    STOP_AFTER,
    FetchError,
    FetchOptions,
    VideoClip,
    YouTube,
    write_csv,
)

FAST = FetchOptions(per_minute=60_000, retry_wait=0)
SOUND = np.full(800, 0.1, np.float32)


def listing(path: Path, *clips: str) -> Path:
    """A table of AudioCaps that names these videos, each ten seconds later than the one before."""
    rows = [(n, clip, n * 10, f"Caption {n}") for n, clip in enumerate(clips)]
    write_csv(path, ("audiocap_id", "youtube_id", "start_time", "caption"), rows)
    return path


class Network:
    """A stand-in: writes a sound, or fails as told: reasons to give, one a try."""

    def __init__(self, **faults: list[FetchError]) -> None:
        self.faults, self.asked = faults, []

    def __call__(self, clip: VideoClip, target: Path) -> None:
        self.asked.append(clip.name)
        if faults := self.faults.get(clip.youtube_id):
            target.write_bytes(b"half")
            raise faults.pop(0)
        write_audio(target, SOUND, 8000)


def gone(reason: str = "Video unavailable") -> FetchError:
    return FetchError(reason)


def busy(reason: str = "HTTP Error 429: Too Many Requests") -> FetchError:
    return FetchError(reason, transient=True)


@pytest.fixture
def five(tmp_path) -> Path:
    return listing(tmp_path / "train.csv", *(f"clip{n}" for n in range(5)))


# --- with a stand-in for the network ---


def test_fetching_and_going_on(tmp_path, five):
    out, network, seen = tmp_path / "out", Network(clip1=[gone()], clip3=[busy()]), []
    facts = prepare(
        [five], out, options=FAST, fetch=network, progress=lambda *now: seen.append(now)
    )
    assert (facts["clips"], facts["fetched"], facts["failed"], facts["missing"]) == (4, 4, 1, 1)
    assert network.asked == [f"clip{n}_{n * 10}" for n in (0, 1, 2, 3, 3, 4)]
    assert seen == [(n, 5) for n in range(1, 6)]
    assert read_table(out / "failures.csv")[1] == [
        {"youtube_id": "clip1", "start_time": "10", "reason": "Video unavailable"}
    ]
    assert read_table(out / "missing.csv")[1][0]["reason"] == "Video unavailable"
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
    assert read_table(out / "failures.csv")[1] == []


def test_only_what_may_pass_is_tried_again(tmp_path, five):
    network = Network(clip0=[busy() for _ in range(9)], clip1=[gone("Private video")])
    facts = prepare([five], tmp_path / "out", options=FAST, fetch=network)
    once = {f"clip{n}_{n * 10}": 1 for n in range(1, 5)}
    assert Counter(network.asked) == {"clip0_0": 3, **once}
    assert facts["failed"] == 2
    failures = read_table(tmp_path / "out/failures.csv")[1]
    reasons = {row["youtube_id"]: row["reason"] for row in failures}
    assert reasons == {"clip0": "HTTP Error 429: Too Many Requests", "clip1": "Private video"}


def test_a_network_that_is_down_is_not_the_clips_fault(tmp_path):
    count = STOP_AFTER + 5
    train = listing(tmp_path / "train.csv", *(f"clip{n}" for n in range(count)))
    network = Network(**{f"clip{n}": [busy()] for n in range(2, count)})
    options = dataclasses.replace(FAST, retries=0)
    facts = prepare([train], tmp_path / "out", options=options, fetch=network)
    assert len(network.asked) == 2 + STOP_AFTER
    assert (
        f"{STOP_AFTER} consecutive downloads failed, the last: HTTP Error 429" in facts["stopped"]
    )
    assert (facts["clips"], facts["failed"]) == (2, 0)
    assert read_table(tmp_path / "out/failures.csv")[1] == []
    facts = prepare([train], tmp_path / "out", options=options, fetch=Network())
    assert (facts["clips"], facts["fetched"], facts["stopped"]) == (count, count - 2, None)


def test_what_is_no_sound_is_a_failure(tmp_path, five):
    def fetch(clip: VideoClip, target: Path) -> None:
        target.write_bytes(b"<html>")

    facts = prepare([five], tmp_path / "out", options=FAST, fetch=fetch)
    assert (facts["clips"], facts["failed"]) == (0, 5)
    failures = read_table(tmp_path / "out/failures.csv")[1]
    assert failures[0]["reason"].startswith("not an audio file: cannot")
    assert list((tmp_path / "out" / "audio").iterdir()) == []


def test_pace(tmp_path, five):
    options = dataclasses.replace(FAST, per_minute=600)
    begin = time.monotonic()
    prepare([five], tmp_path / "out", options=options, fetch=Network(clip0=[busy()]))
    assert 0.49 < time.monotonic() - begin < 5, "six tries, a tenth of a second apart"


def test_ctrl_c_leaves_a_manifest(tmp_path, five):
    network = Network()

    def fetch(clip: VideoClip, target: Path) -> None:
        if clip.youtube_id == "clip3":
            raise KeyboardInterrupt
        network(clip, target)

    with pytest.raises(KeyboardInterrupt):
        prepare([five], tmp_path / "out", options=FAST, fetch=fetch)
    assert len(read_manifest(tmp_path / "out").recordings) == 3
    assert len(read_table(tmp_path / "out/missing.csv")[1]) == 2
    assert not list((tmp_path / "out").glob(".*"))


KILLED = """
import sys, time
from pathlib import Path
from soundcrafter.audio import write_audio
from soundcrafter.data.audiocaps import prepare
from soundcrafter.data.youtube import FetchOptions
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "rate: got 0; allowed: 1000 to"),
        ({"format": "mp3"}, "format: got 'mp3'; allowed: wav, flac"),
        ({"per_minute": 0}, "per_minute: got 0; allowed: above 0"),
        ({"retries": -1}, "retries, retry_wait: got -1, 30; allowed: 0 or more"),
        ({"cookies": Path("none")}, "none: no such file"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        FetchOptions(**change)


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
    csv_file = listing(tmp_path / "val.csv", *clips)
    quick = ("--per-minute", 60_000, "--retry-wait", 0, "--rate", 8000)
    code, text, _ = run(csv_file, "--out", tmp_path / "out", *quick, "--json")
    facts = json.loads(text)
    assert code == 0
    assert facts["splits"] == {"dev": 3}
    assert (facts["fetched"], facts["failed"], facts["stopped"]) == (3, 1, None)
    (failure,) = read_table(tmp_path / "out/failures.csv")[1]
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
    (tmp_path / "clips").mkdir()
    for n in range(5):
        write_audio(tmp_path / f"clips/Yclip{n}.wav", SOUND, 8000)
    assert run(five, "--out", tmp_path / "out", "--audio", tmp_path / "clips")[0] == 0
    assert "limit: got 0" in refused(run(five, "--out", tmp_path / "out", "--limit", 0))


def test_a_full_disk_is_no_fault_of_the_clip(tmp_path, tools, run):
    csv_file = listing(tmp_path / "val.csv", "fullaaaaaaa")
    message = refused(run(csv_file, "--out", tmp_path / "out", "--per-minute", 60_000))
    assert "No space left on device" in message
    assert not (tmp_path / "out/failures.csv").exists()


def test_command_stops_where_all_is_refused(tmp_path, tools, run):
    (tools / "yt-dlp").write_text(f"#!{sys.executable}\nimport sys; sys.exit('HTTP Error 429')")
    csv_file = listing(tmp_path / "val.csv", *(f"clip{n}" for n in range(STOP_AFTER + 2)))
    quick = ("--per-minute", 60_000, "--retries", 0)
    code, out, error = run(csv_file, "--out", tmp_path / "out", *quick, "--json")
    assert code == 2
    assert json.loads(out)["clips"] == 0
    assert "10 consecutive downloads failed" in error


def test_a_hanging_download_is_ended_with_its_children(tmp_path, tools, monkeypatch):
    monkeypatch.setattr("soundcrafter.data.youtube.TIMEOUT", 1)
    hang = "import subprocess, sys, time\nif len(sys.argv) > 2:\n"
    hang += "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    hang += f"    open({str(tools / 'child')!r}, 'w').write(str(child.pid))\ntime.sleep(600)"
    (tools / "yt-dlp").write_text(f"#!{sys.executable}\n{hang}")
    (tmp_path / "stage").mkdir()
    with pytest.raises(FetchError, match="timed out after 1 s") as error:
        YouTube(FAST)(VideoClip(youtube_id="a", start=0), tmp_path / "stage" / "a_0.wav")
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
    command = YouTube(FAST).download_command(VideoClip(youtube_id="-abcdefghij", start=30))
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
