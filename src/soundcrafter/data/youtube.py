"""Fetching clips of videos: at a pace, again where that may help, never half written.

What could not be fetched is remembered in failures.csv, beside the clips' folder.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.audio import audio_info
from soundcrafter.data.layouts import CLIP_SECONDS, clip_name, seconds_in
from soundcrafter.data.manifest import read_table
from soundcrafter.files import make_folder, write_csv
from soundcrafter.progress import Progress

FAILURES = "failures.csv"
FAILURE_COLUMNS = ("youtube_id", "start_time", "reason")
FORMATS = ("wav", "flac")
STOP_AFTER = 10  # clips in a row that the network refused: then it is not the clips' fault
TIMEOUT = 300  # seconds for one call of yt-dlp or ffmpeg
_STAGING = ".fetch-"
# What yt-dlp says where it is not the clip's fault. Its ffmpeg fetches and tells it no reason;
# without a JavaScript runtime it sees no format.
_TRANSIENT = re.compile(
    r"HTTP Error (403|408|429|5\d\d)|timed? ?out|connection|resolve|name resolution|unreachable"
    r"|IncompleteRead|remote end closed|\bSSL|not a bot|try again later|rate.?limit"
    r"|requested format is not available|ffmpeg exited with code",
    re.IGNORECASE,
)
# What would fail for every clip alike.
_HOPELESS = re.compile(
    r"No space left on device|no such option|Unrecognized option|Unknown encoder"
)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How clips are fetched and kept."""

    rate: int = 16_000  # Hz
    format: str = "wav"  # or flac; both mono, 16 bit
    # yt-dlp's wiki: a guest may ask for about 300 videos an hour.
    per_minute: float = 5.0  # tries a minute, at most
    retries: int = 2  # further tries, for what may pass: a busy server, a broken connection
    retry_wait: float = 30.0  # seconds before the first further try, doubled each time
    retry_failed: bool = False  # also try the clips listed in failures.csv
    cookies: Path | None = None  # a browser's cookies.txt, for yt-dlp

    def __post_init__(self) -> None:
        if not 1000 <= self.rate <= 192_000:
            raise ValueError(f"rate: got {self.rate}; allowed: 1000 to 192000 Hz")
        if self.format not in FORMATS:
            raise ValueError(f"format: got {self.format!r}; allowed: {', '.join(FORMATS)}")
        if not self.per_minute > 0:
            raise ValueError(f"per_minute: got {self.per_minute}; allowed: above 0")
        if self.retries < 0 or self.retry_wait < 0:
            raise ValueError("retries and retry_wait: allowed: 0 or more")
        if self.cookies is not None and not self.cookies.is_file():
            raise ValueError(f"{self.cookies}: no such file (cookies)")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Ten seconds of a video."""

    youtube_id: str
    start: float  # seconds into the video

    @property
    def name(self) -> str:
        """The file's name without suffix."""
        return clip_name(self.youtube_id, self.start)


class FetchError(Exception):
    """A clip could not be fetched; `transient` where another try may help."""

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


Fetch = Callable[[Clip, Path], None]
"""Writes a clip's sound to the path; FetchError where that fails, for good or for now."""

Failures = dict[tuple[str, float], str]
"""Why a clip could not be fetched, by its id and start."""


def resume(out: Path) -> Failures:
    """What earlier runs for `out` could not fetch; a killed one's staging folder is removed.

    Raises ValueError where failures.csv is another table.
    """
    path, needed = out / FAILURES, set(FAILURE_COLUMNS)
    columns, rows = read_table(path) if path.exists() else (needed, [])
    starts = [seconds_in(row.get("start_time")) for row in rows]
    if not columns >= needed or None in starts:
        raise ValueError(f"{path}: not a list of failures; remove it to try all clips again")
    for folder in out.glob(f"{_STAGING}*"):
        shutil.rmtree(folder, ignore_errors=True)
    pairs = zip(rows, starts, strict=True)
    return {(row["youtube_id"], start): row["reason"] for row, start in pairs if start is not None}


def fetch_clips(
    clips: Sequence[Clip],
    out: Path,
    fetch: Fetch,
    failures: Failures,
    options: FetchOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fetch clips one after the other into `out`/audio; keep `failures` and its file up to date.

    A file gets its name when it is whole and its header has been read. Ends early when the network
    has refused STOP_AFTER clips in a row, and counts none of these as failed.
    Returns {"fetched": count, "stopped": why it ended early or None}.
    """
    folder, tally = make_folder(out / "audio"), _Tally(out / FAILURES, failures)
    pause = _Pace(options.per_minute).wait
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=out) as staging:
        for done, clip in enumerate(clips, 1):
            key, name = (clip.youtube_id, clip.start), f"{clip.name}.{options.format}"
            try:
                _try(clip, Path(staging) / name, fetch, options, pause)
                os.replace(Path(staging) / name, folder / name)
                tally.success(key)
            except FetchError as error:
                tally.failure(key, error)
            if tally.stopped is not None:
                break
            if progress is not None:
                progress(done, len(clips))
    tally.settle()
    return {"fetched": tally.fetched, "stopped": tally.stopped}


class _Tally:
    """What came of the clips so far; keeps `failures` and its file up to date."""

    def __init__(self, file: Path, failures: Failures) -> None:
        self.fetched = 0
        self.stopped: str | None = None
        self._file, self._failures = file, failures
        self._refused: Failures = {}  # in a row, so far

    def success(self, key: tuple[str, float]) -> None:
        self.fetched += 1
        if self._failures.pop(key, None) is not None or self._refused:
            self.settle()

    def failure(self, key: tuple[str, float], error: FetchError) -> None:
        if not error.transient:
            self._failures[key] = str(error)
            self.settle()
            return
        self._refused[key] = str(error)
        count = len(self._refused)
        if count >= STOP_AFTER:
            self.stopped = f"{count} clips in a row were refused, the last: {error}"
            self._refused.clear()

    def settle(self) -> None:
        """Clips refused before one that was not, or before the end, have failed as others do."""
        self._failures.update(self._refused)
        self._refused.clear()
        rows = [(clip, f"{start:g}", reason) for (clip, start), reason in self._failures.items()]
        write_csv(self._file, FAILURE_COLUMNS, rows)


def _try(
    clip: Clip, target: Path, fetch: Fetch, options: FetchOptions, pause: Callable[[], None]
) -> None:
    """Fetch one clip, again after a while where that may help; its file can be read then."""
    for attempt in range(options.retries + 1):
        if attempt:
            time.sleep(options.retry_wait * 2 ** (attempt - 1))
        pause()
        try:
            fetch(clip, target)
            break
        except FetchError as error:
            if not error.transient or attempt == options.retries:
                raise
    try:
        audio_info(target)
    except ValueError as error:
        # The path is a temporary one: what stands behind it is the reason.
        reason = str(error).removeprefix(f"{target}: ")
        raise FetchError(f"not a sound: {reason}") from None


class _Pace:
    """Keeps the starts of tries at least a minute / per_minute apart."""

    def __init__(self, per_minute: float) -> None:
        self._gap, self._next = 60 / per_minute, 0.0

    def wait(self) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._gap


class YouTube:
    """Fetches clips with yt-dlp and ffmpeg. ValueError where one of them is not installed."""

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        executable, ffmpeg = shutil.which("yt-dlp"), shutil.which("ffmpeg")
        if executable is not None:
            self._yt_dlp = [executable]
        elif importlib.util.find_spec("yt_dlp") is not None:
            self._yt_dlp = [sys.executable, "-m", "yt_dlp"]
        else:
            raise ValueError(
                "fetching needs yt-dlp: pip install 'soundcrafter[data]'; "
                "or name a folder of clips with --audio"
            )
        if ffmpeg is None:
            raise ValueError(
                "fetching needs ffmpeg, and it is not on the PATH: apt install ffmpeg, "
                "brew install ffmpeg or https://ffmpeg.org/download.html"
            )
        self._ffmpeg = ffmpeg

    def __call__(self, clip: Clip, target: Path) -> None:
        for old in target.parent.iterdir():  # what an earlier try may have left
            old.unlink()
        self._run(self.download_command(clip), target.parent)
        sources = sorted(target.parent.glob("source.*"))
        if not sources:
            raise FetchError("yt-dlp wrote no file")
        self._run(self.convert_command(sources[0], target), target.parent)
        sources[0].unlink()

    def download_command(self, clip: Clip) -> list[str]:
        """The yt-dlp call that leaves the clip, and a second more, in source.* where it runs.

        Tried with yt-dlp 2026.10.26: without --force-keyframes-at-cuts the cut is at WebM's cue
        points, seconds too early. With it the sound is coded once more: as flac nothing is lost.
        """
        end = clip.start + CLIP_SECONDS + 1
        cookies = self._options.cookies
        return [
            *self._yt_dlp,
            *("--ignore-config", "--quiet", "--no-warnings", "--no-progress", "--no-playlist"),
            *("--socket-timeout", "30", "--format", "bestaudio/best"),
            *("--download-sections", f"*{clip.start:g}-{end:g}", "--force-keyframes-at-cuts"),
            *("--downloader-args", "ffmpeg_o:-vn -c:a flac -f matroska", "--fixup", "never"),
            *("--no-mtime", "--output", "source.%(ext)s"),
            *(("--cookies", str(cookies.resolve())) if cookies else ()),
            *("--", f"https://www.youtube.com/watch?v={clip.youtube_id}"),
        ]

    def convert_command(self, source: Path, target: Path) -> list[str]:
        """The ffmpeg call that makes mono 16-bit sound of at most ten seconds."""
        codec = {"wav": "pcm_s16le", "flac": "flac"}[self._options.format]
        return [
            *(self._ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", "-y"),
            *("-i", source.name, "-vn", "-map_metadata", "-1"),
            # timestamps may begin a little late: counted anew, the length is exact
            *("-af", f"asetpts=N/SR/TB,atrim=end={CLIP_SECONDS}"),
            *("-ac", "1", "-ar", str(self._options.rate), "-c:a", codec, "-sample_fmt", "s16"),
            *("-bitexact", "-f", self._options.format, f"./{target.name}"),
        ]

    def _run(self, command: list[str], folder: Path) -> None:
        """Run in `folder`; FetchError with the last error on stderr where it fails."""
        log = folder / "stderr"
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )
            try:
                code = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                raise FetchError(f"timed out after {TIMEOUT} s", transient=True) from None
            finally:
                _end(process)
        if code:
            said = log.read_text(encoding="utf-8", errors="replace")
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR: ")] or lines
            name = "ffmpeg" if command[0] == self._ffmpeg else "yt-dlp"
            reason = errors[-1].removeprefix("ERROR: ") if errors else f"ended with {code}"
            if _HOPELESS.search(said):
                raise ValueError(f"{folder.parent}: {name}: {reason}")
            raise FetchError(f"{name}: {reason}", transient=bool(_TRANSIENT.search(reason)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: yt-dlp leaves the download to ffmpeg."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
