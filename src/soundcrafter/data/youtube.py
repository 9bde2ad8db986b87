"""Downloading clips of YouTube videos at a limited rate, with retries.

Failed downloads are listed in failures.csv, beside the folder of the clips.
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
from soundcrafter.data.clip_names import CLIP_SECONDS, clip_name
from soundcrafter.data.tables import parse_number, read_table
from soundcrafter.files import make_folder, write_csv
from soundcrafter.progress import Progress

FAILURES = "failures.csv"
FAILURE_COLUMNS = ("youtube_id", "start_time", "reason")
FORMATS = ("wav", "flac")
STOP_AFTER = 10  # consecutive transient failures, which mean that the network is at fault
TIMEOUT = 300  # seconds per call of yt-dlp or ffmpeg
_STAGING = ".fetch-"
# Errors of yt-dlp that another attempt may fix. ffmpeg, which yt-dlp calls for the download, gives
# no reason for its failure; "requested format" also means that the JavaScript runtime is missing.
_TRANSIENT = re.compile(
    r"HTTP Error (403|408|429|5\d\d)|timed? ?out|connection|resolve|name resolution|unreachable"
    r"|IncompleteRead|remote end closed|\bSSL|not a bot|try again later|rate.?limit"
    r"|requested format is not available|ffmpeg exited with code",
    re.IGNORECASE,
)
# Errors that would occur for every clip.
_FATAL = re.compile(r"No space left on device|no such option|Unrecognized option|Unknown encoder")


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How clips are downloaded and stored."""

    rate: int = 16_000  # Hz
    format: str = "wav"  # or flac; both are mono, 16 bit
    # According to yt-dlp's wiki, guests may request about 300 videos per hour.
    per_minute: float = 5.0  # maximum number of attempts per minute
    retries: int = 2  # additional attempts after transient errors, such as a lost connection
    retry_wait: float = 30.0  # seconds before the first retry, doubled for each further one
    retry_failed: bool = False  # also try the clips listed in failures.csv
    cookies: Path | None = None  # cookies.txt of a browser, for yt-dlp

    def __post_init__(self) -> None:
        if not 1000 <= self.rate <= 192_000:
            raise ValueError(f"rate: got {self.rate}; allowed: 1000 to 192000 Hz")
        if self.format not in FORMATS:
            raise ValueError(f"format: got {self.format!r}; allowed: {', '.join(FORMATS)}")
        if not self.per_minute > 0:
            raise ValueError(f"per_minute: got {self.per_minute}; allowed: above 0")
        if self.retries < 0 or self.retry_wait < 0:
            raise ValueError(
                f"retries, retry_wait: got {self.retries}, {self.retry_wait:g}; allowed: 0 or more"
            )
        if self.cookies is not None and not self.cookies.is_file():
            raise ValueError(f"cookies: {self.cookies}: no such file")


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """Ten seconds of a video."""

    youtube_id: str
    start: float  # seconds into the video

    @property
    def name(self) -> str:
        """The name of the file without suffix."""
        return clip_name(self.youtube_id, self.start)


class FetchError(Exception):
    """A clip could not be downloaded; `transient` if another attempt may succeed."""

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


Fetch = Callable[[VideoClip, Path], None]  # writes the clip to the path, or raises FetchError
Failures = dict[tuple[str, float], str]  # id and start of a clip -> why its download failed


def read_failures(out: Path) -> Failures:
    """Return the failed downloads of earlier runs, and remove temporary folders that they left.

    Raises ValueError if failures.csv is not a table of failures.
    """
    path, needed = out / FAILURES, set(FAILURE_COLUMNS)
    columns, rows = read_table(path) if path.exists() else (needed, [])
    starts = [parse_number(row.get("start_time")) for row in rows]
    if not columns >= needed or None in starts:
        raise ValueError(f"{path}: not a list of failures; delete it to try all clips again")
    for folder in out.glob(f"{_STAGING}*"):
        shutil.rmtree(folder, ignore_errors=True)
    pairs = zip(rows, starts, strict=True)
    return {(row["youtube_id"], start): row["reason"] for row, start in pairs if start is not None}


def fetch_clips(
    clips: Sequence[VideoClip],
    out: Path,
    fetch: Fetch,
    failures: Failures,
    options: FetchOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Download clips one after another into `out`/audio; updates `failures` and its file.

    A file is moved there once it is complete and its header is readable. After STOP_AFTER
    consecutive transient failures the download stops, and these clips do not count as failed.
    Returns {"fetched": count, "stopped": the reason for stopping or None}.
    """
    folder, results = make_folder(out / "audio"), _Results(out / FAILURES, failures)
    limiter = _RateLimiter(options.per_minute)
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=out) as staging:
        for done, clip in enumerate(clips, 1):
            key, name = (clip.youtube_id, clip.start), f"{clip.name}.{options.format}"
            try:
                _fetch_with_retries(clip, Path(staging) / name, fetch, options, limiter)
                os.replace(Path(staging) / name, folder / name)
                results.success(key)
            except FetchError as error:
                results.failure(key, error)
            if results.stopped is not None:
                break
            if progress is not None:
                progress(done, len(clips))
    results.flush()
    return {"fetched": results.fetched, "stopped": results.stopped}


class _Results:
    """Counts the results so far, and updates `failures` and its file."""

    def __init__(self, file: Path, failures: Failures) -> None:
        self.fetched = 0
        self.stopped: str | None = None
        self._file, self._failures = file, failures
        self._transient: Failures = {}  # consecutive, up to the last clip

    def success(self, key: tuple[str, float]) -> None:
        self.fetched += 1
        if self._failures.pop(key, None) is not None or self._transient:
            self.flush()

    def failure(self, key: tuple[str, float], error: FetchError) -> None:
        if not error.transient:
            self._failures[key] = str(error)
            self.flush()
            return
        self._transient[key] = str(error)
        count = len(self._transient)
        if count >= STOP_AFTER:
            self.stopped = f"{count} consecutive downloads failed, the last: {error}"
            self._transient.clear()

    def flush(self) -> None:
        """Count pending transient failures as failures, and write the file. They are pending until
        another clip succeeds or the run ends."""
        self._failures.update(self._transient)
        self._transient.clear()
        rows = [(clip, f"{start:g}", reason) for (clip, start), reason in self._failures.items()]
        write_csv(self._file, FAILURE_COLUMNS, rows)


def _fetch_with_retries(
    clip: VideoClip, target: Path, fetch: Fetch, options: FetchOptions, limiter: "_RateLimiter"
) -> None:
    """Download a clip, with retries after transient errors, and check that it can be read."""
    for attempt in range(options.retries + 1):
        if attempt:
            time.sleep(options.retry_wait * 2 ** (attempt - 1))
        limiter.wait()
        try:
            fetch(clip, target)
            break
        except FetchError as error:
            if not error.transient or attempt == options.retries:
                raise
    try:
        audio_info(target)
    except ValueError as error:
        # The path is temporary, so only the reason is useful.
        reason = str(error).removeprefix(f"{target}: ")
        raise FetchError(f"not an audio file: {reason}") from None


class _RateLimiter:
    """Limits the number of attempts per minute by waiting before each of them."""

    def __init__(self, per_minute: float) -> None:
        self._gap, self._next = 60 / per_minute, 0.0

    def wait(self) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._gap


class YouTube:
    """Downloads clips with yt-dlp and ffmpeg. Raises ValueError if one of them is not installed."""

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        executable, ffmpeg = shutil.which("yt-dlp"), shutil.which("ffmpeg")
        if executable is not None:
            self._yt_dlp = [executable]
        elif importlib.util.find_spec("yt_dlp") is not None:
            self._yt_dlp = [sys.executable, "-m", "yt_dlp"]
        else:
            raise ValueError(
                "downloading needs yt-dlp: pip install 'soundcrafter[data]'; "
                "or give a folder of clips with --audio"
            )
        if ffmpeg is None:
            raise ValueError(
                "downloading needs ffmpeg, which is not on the PATH: apt install ffmpeg, "
                "brew install ffmpeg or https://ffmpeg.org/download.html"
            )
        self._ffmpeg = ffmpeg

    def __call__(self, clip: VideoClip, target: Path) -> None:
        for old in target.parent.iterdir():  # left by an earlier attempt
            old.unlink()
        self._run(self.download_command(clip), target.parent)
        sources = sorted(target.parent.glob("source.*"))
        if not sources:
            raise FetchError("yt-dlp: wrote no file")
        self._run(self.convert_command(sources[0], target), target.parent)
        sources[0].unlink()

    def download_command(self, clip: VideoClip) -> list[str]:
        """The yt-dlp command that writes the clip and one second more to source.* in its folder.

        Without --force-keyframes-at-cuts, yt-dlp 2026.10.26 cuts at WebM's cue points, seconds too
        early. With it the sound is encoded again, as flac and so without loss.
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
        """The ffmpeg command that converts to mono, 16 bit and at most ten seconds."""
        codec = {"wav": "pcm_s16le", "flac": "flac"}[self._options.format]
        return [
            *(self._ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", "-y"),
            *("-i", source.name, "-vn", "-map_metadata", "-1"),
            # the first timestamp may be late: renumbering makes the length exact
            *("-af", f"asetpts=N/SR/TB,atrim=end={CLIP_SECONDS}"),
            *("-ac", "1", "-ar", str(self._options.rate), "-c:a", codec, "-sample_fmt", "s16"),
            *("-bitexact", "-f", self._options.format, f"./{target.name}"),
        ]

    def _run(self, command: list[str], folder: Path) -> None:
        """Run a command in `folder`. Raises FetchError with its last error message if it fails."""
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
                _kill(process)
        if code:
            output = log.read_text(encoding="utf-8", errors="replace")
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR: ")] or lines
            name = "ffmpeg" if command[0] == self._ffmpeg else "yt-dlp"
            reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit status {code}"
            if _FATAL.search(output):
                raise ValueError(f"{folder.parent}: {name}: {reason}")
            raise FetchError(f"{name}: {reason}", transient=bool(_TRANSIENT.search(reason)))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children: yt-dlp starts ffmpeg for the download."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
