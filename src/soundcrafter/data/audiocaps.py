"""AudioCaps: choose among its captions, fetch or find its clips, write the manifest to train from.

The captions come as csv tables (columns youtube_id, start_time, caption and audiocap_id where it
is there; v1 and v2.0 alike) or as the metadata of AudioLDM and TANGO, see `layouts`. The sounds
stay on YouTube: many videos are gone, so every user's set is a little smaller than the tables.
"""

import csv
import hashlib
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundcrafter.audio import audio_info
from soundcrafter.data.layouts import (
    CLIP_SECONDS,
    Entry,
    clip_name,
    clip_of,
    find_clip,
    index_audio,
    own_split,
    read_layout,
    seconds_in,
)
from soundcrafter.data.manifest import (
    AUDIOCAPS_COLUMNS,
    normalize_caption,
    read_lengths,
    read_table,
)
from soundcrafter.files import make_folder, write_text

MANIFEST, FAILURES, MISSING = "manifest.csv", "failures.csv", "missing.csv"
MANIFEST_COLUMNS = ("file", "caption", "split", "seconds", "group", "labels", "audiocap_id")
FORMATS = ("wav", "flac")
STOP_AFTER = 10  # clips in a row that the network refused: then it is not the clips' fault
TIMEOUT = 300  # seconds for one call of yt-dlp or ffmpeg
_STAGING = ".fetch-"
_YOUTUBE_ID = re.compile(r"[\w-]+", re.ASCII)  # also a safe file name
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
class Selection:
    """Which captions are wanted. Every draw is a function of the seed and the clip's id alone:
    the order of the tables changes nothing."""

    one_caption: bool = False  # one of each clip's captions, drawn
    random_validation: float | None = None  # this share of the train clips becomes dev
    only: Path | None = None  # a list of clips or captions, see `read_only`
    limit: int | None = None  # so many clips, drawn; fewer are always among more
    seed: int = 0

    def __post_init__(self) -> None:
        share = self.random_validation
        if share is not None and not 0 < share < 1:
            raise ValueError(f"random_validation: got {share}; allowed: above 0, below 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: got {self.limit}; allowed: 1 or more")


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

Key = tuple[str, float | None]
"""A clip's id and start, as `Entry.key`."""

Progress = Callable[[int, int], None]
"""Told (clips done, clips in all)."""


def prepare(
    tables: Sequence[Path],
    out: Path,
    *,
    audio: Path | None = None,
    selection: Selection | None = None,
    options: FetchOptions | None = None,
    fetch: Fetch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `out`/manifest.csv for the tables' clips; return counts, ready for JSON.

    The clips are those in the folder `audio`, under any of their usual names; without `audio`
    those below `out`, and what is not there of the csv tables is fetched first, by `fetch` or by
    yt-dlp. What stays away is in missing.csv, what could not be fetched in failures.csv; that is
    not tried again unless `retry_failed`. A run may be ended at any moment and begun again: it
    goes on, and no file is ever half written. One run at a time for a folder.
    Raises ValueError for bad tables and options, where yt-dlp or ffmpeg are needed and absent, and
    where there is nothing to fetch and no clip is found.
    """
    options = options or FetchOptions()
    entries, unknown = select(read_entries(tables), selection or Selection())
    if audio is not None and not audio.is_dir():
        raise ValueError(f"{audio}: no such folder")
    clips = _clips(entries) if audio is None else {}
    make_folder(out)
    failures = _read_failures(out / FAILURES)
    _sweep(out)
    known = {} if options.retry_failed else failures
    found = _find(entries, index_audio(audio or out))
    wanted = [clips[key] for key in clips if key not in found and key not in known]
    if wanted and fetch is None:
        fetch = YouTube(options)
    counts: dict[str, Any] = {"fetched": 0, "stopped": None}
    try:
        if wanted and fetch is not None:
            counts = fetch_clips(wanted, out, fetch, failures, options, progress)
            found = _find(entries, index_audio(out))
    except (KeyboardInterrupt, ValueError):  # a partial run has a manifest too
        _write_manifest(entries, out, _find(entries, index_audio(out)), failures)
        raise
    if not found and not clips:
        raise ValueError(
            f"{audio or tables[0]}: none of the {len({e.key for e in entries})} clips is there "
            "(names such as Y<id>.wav, <id>_<start>.wav, <id>_<start>_<end>.wav)"
        )
    facts = _write_manifest(entries, out, found, failures)
    return {"manifest": str(out / MANIFEST), **facts, **counts, "not_in_tables": unknown}


def read_entries(tables: Sequence[Path]) -> list[Entry]:
    """The captions of AudioCaps csv tables and of AudioLDM's and TANGO's json, in their order.

    Raises ValueError naming the table and what is wrong with it.
    """
    if not tables:
        raise ValueError("name at least one table: csv (AudioCaps), json (AudioLDM, TANGO)")
    entries: list[Entry] = []
    for table in tables:
        is_csv = table.suffix.lower() == ".csv"
        entries += _read_csv(table) if is_csv else read_layout(table)
    if not entries:
        raise ValueError(f"{tables[0]}: no caption in it")
    return entries


def _read_csv(table: Path) -> list[Entry]:
    columns, rows = read_table(table)
    if not columns >= AUDIOCAPS_COLUMNS:
        raise ValueError(
            f"{table}: has columns {', '.join(sorted(columns)) or 'none'}; "
            f"needs {', '.join(sorted(AUDIOCAPS_COLUMNS))}"
        )
    entries = []
    for number, row in enumerate(rows, 1):
        start = seconds_in(row["start_time"])
        clip, caption = row["youtube_id"] or "", (row["caption"] or "").strip()
        if start is None or not caption or not _YOUTUBE_ID.fullmatch(clip):
            raise ValueError(
                f"{table}: row {number}: got youtube_id {clip!r}, start_time "
                f"{row['start_time']!r}, caption {caption[:40]!r}; expected an id, seconds, a text"
            )
        entry = Entry(clip=clip, start=start, caption=caption, split=own_split(table.stem))
        entries.append(replace(entry, number=row.get("audiocap_id")))
    return entries


def select(entries: Sequence[Entry], selection: Selection) -> tuple[list[Entry], int]:
    """The captions that `selection` wants, in their order; and how many of its list are unknown.

    Raises ValueError where nothing is left, and for a random validation part beside a given one.
    """
    kept, unknown = list(entries), 0
    if selection.only is not None:
        kept, unknown = read_only(selection.only).choose(kept)
        if not kept:
            raise ValueError(f"{selection.only}: lists none of the clips of the tables")
    if selection.random_validation is not None:
        kept = _split_off(kept, selection.random_validation, selection.seed)
    if selection.limit is not None:
        order = sorted({e.key for e in kept}, key=lambda key: _draw(selection.seed, "limit", *key))
        chosen = set(order[: selection.limit])
        kept = [entry for entry in kept if entry.key in chosen]
    if selection.one_caption:
        drawn: dict[Key, tuple[float, str, int]] = {}
        for place, entry in enumerate(kept):
            draw = _draw(selection.seed, "caption", *entry.key, entry.caption)
            lot = (draw, entry.number or "", place)
            drawn[entry.key] = min(lot, drawn.get(entry.key, lot))
        places = {place for *_, place in drawn.values()}
        kept = [entry for place, entry in enumerate(kept) if place in places]
    return kept, unknown


def _split_off(entries: Sequence[Entry], share: float, seed: int) -> list[Entry]:
    """Each train clip goes to dev with probability `share`, with all its captions."""
    splits = Counter(entry.split for entry in entries)
    if splits["dev"] or not splits["train"]:
        raise ValueError(
            f"random_validation: the tables have {dict(splits)} captions; "
            "it needs a train table and no validation table"
        )
    return [
        replace(entry, split="dev")
        if entry.split == "train" and _draw(seed, "validation", entry.clip) < share
        else entry
        for entry in entries
    ]


def _draw(seed: int, *parts: object) -> float:
    """A number in [0, 1) that is a function of its arguments alone, on every machine."""
    text = "\0".join(map(str, (seed, *parts)))
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, kw_only=True)
class Only:
    """A list of captions or clips that others published results on."""

    numbers: frozenset[str] = frozenset()  # audiocap_ids
    clips: frozenset[str] = frozenset()  # YouTube ids
    captions: frozenset[tuple[str, str]] = frozenset()  # (YouTube id, normalised caption)

    def choose(self, entries: Sequence[Entry]) -> tuple[list[Entry], int]:
        """The listed captions, and how many of the list's clips (or numbers) are not there."""
        pairs = {(entry.clip, normalize_caption(entry.caption)) for entry in entries}
        fixed = {clip for clip, _ in pairs & self.captions}  # here the list's wording is known
        kept = []
        for entry in entries:
            if self.numbers and entry.number is not None:
                wanted = entry.number in self.numbers
            elif entry.clip in fixed:
                wanted = (entry.clip, normalize_caption(entry.caption)) in self.captions
            else:
                wanted = entry.clip in self.clips
            if wanted:
                kept.append(entry)
        unknown_clips = len(self.clips - {entry.clip for entry in kept})
        unknown_numbers = len(self.numbers - {entry.number for entry in kept})
        return kept, unknown_clips if self.clips else unknown_numbers


def read_only(path: Path) -> Only:
    """Read a list of clips: the published test sets are such lists, none comes with the package.

    The usual AudioCaps figures are on 964 of the 975 test clips with one caption each: the file
    audiocaps_test_nonrepeat_subset_*.json of haoheliu/audioldm_eval; TANGO's test file is another.
    Both are taken as they are, and fix the caption too where it is among the clip's. A csv with
    audiocap_id lists captions; one with youtube_id alone, or a text file of ids, lists clips.
    Raises ValueError for an unreadable file and where it lists nothing.
    """
    if path.suffix.lower() == ".csv":
        columns, rows = read_table(path)
        if not columns & {"youtube_id", "audiocap_id"}:
            raise ValueError(
                f"{path}: has columns {', '.join(sorted(columns)) or 'none'}; "
                "needs audiocap_id or youtube_id"
            )
        cells = {name: {(row.get(name) or "").strip() for row in rows} - {""} for name in columns}
        only = Only(
            numbers=frozenset(cells.get("audiocap_id", ())),
            clips=frozenset(clip_of(cell)[0] for cell in cells.get("youtube_id", ())),
        )
    elif path.suffix.lower() in (".json", ".jsonl"):
        entries = read_layout(path)
        only = Only(
            clips=frozenset(entry.clip for entry in entries),
            captions=frozenset((e.clip, normalize_caption(e.caption)) for e in entries),
        )
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot read: {error}") from None
        only = Only(clips=frozenset(clip_of(Path(line).stem)[0] for line in lines))
    if not (only.numbers or only.clips):
        raise ValueError(f"{path}: lists no clip")
    return only


def fetch_clips(
    clips: Sequence[Clip],
    out: Path,
    fetch: Fetch,
    failures: dict[tuple[str, float], str],
    options: FetchOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fetch clips one after the other into `out`/audio; keep `failures` and its file up to date.

    A file gets its name when it is whole and its header has been read. Ends early when the network
    has refused STOP_AFTER clips in a row, and counts none of these as failed.
    Returns {"fetched": count, "stopped": why it ended early or None}.
    """
    folder = make_folder(out / "audio")
    pause = _Pace(options.per_minute).wait
    refused: dict[tuple[str, float], str] = {}  # in a row, so far
    fetched, stopped = 0, None
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=out) as staging:
        for done, clip in enumerate(clips, 1):
            key, name = (clip.youtube_id, clip.start), f"{clip.name}.{options.format}"
            try:
                _try(clip, Path(staging) / name, fetch, options, pause)
                os.replace(Path(staging) / name, folder / name)
                fetched += 1
                changed = failures.pop(key, None) is not None
            except FetchError as error:
                changed = not error.transient
                (refused if error.transient else failures)[key] = str(error)
                if len(refused) >= STOP_AFTER:
                    stopped = f"{len(refused)} clips in a row were refused, the last: {error}"
                    break
            if refused and key not in refused:
                failures.update(refused)
                refused.clear()
                changed = True
            if changed:
                _write_failures(out / FAILURES, failures)
            if progress is not None:
                progress(done, len(clips))
    if refused and stopped is None:
        failures.update(refused)
    _write_failures(out / FAILURES, failures)
    return {"fetched": fetched, "stopped": stopped}


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


def _clips(entries: Iterable[Entry]) -> dict[tuple[str, float | None], Clip]:
    """The clips that can be fetched, each once: AudioCaps' own, others may be no videos."""
    own = [entry for entry in entries if entry.file is None]
    return {e.key: Clip(youtube_id=e.clip, start=e.start) for e in own if e.start is not None}


def _find(entries: Sequence[Entry], files: Mapping[str, Path]) -> dict[Key, Path]:
    """The file of each clip that is there, by the entry's key."""
    starts: dict[str, set[float | None]] = {}
    for entry in entries:
        starts.setdefault(entry.clip, set()).add(entry.start)
    by_clip: dict[str, list[Path]] = {}
    for name, path in files.items():
        by_clip.setdefault(clip_of(name)[0], []).append(path)
    found: dict[Key, Path] = {}
    for entry in entries:
        file = found.get(entry.key) or _stated(entry, files)
        if file is None:
            file = find_clip(files, entry.clip, entry.start, alone=len(starts[entry.clip]) == 1)
        if file is None and entry.start is None and len(by_clip.get(entry.clip, ())) == 1:
            file = by_clip[entry.clip][0]
        if file is not None:
            found[entry.key] = file
    return found


def _stated(entry: Entry, files: Mapping[str, Path]) -> Path | None:
    """The file that the metadata names: where it says, or by that name among `files`."""
    if entry.file is None or entry.file.is_file():
        return entry.file
    return files.get(entry.file.stem)


def _write_manifest(
    entries: Sequence[Entry],
    out: Path,
    found: Mapping[Key, Path],
    failures: Mapping[tuple[str, float], str],
) -> dict[str, Any]:
    """Write manifest.csv and missing.csv; return what they hold, counted."""
    lengths, root = read_lengths(found.values()), os.path.abspath(out)
    rows, missing, clips = [], {}, set()
    for entry in entries:
        file = found.get(entry.key)
        length = "not there" if file is None else lengths[file]
        if file is None or isinstance(length, str):
            start = "" if entry.start is None else f"{entry.start:g}"
            reason = failures.get((entry.clip, entry.start or 0.0), length)
            missing[entry.key] = (entry.clip, start, entry.split, reason)
            continue
        name = Path(os.path.abspath(file))
        if name.is_relative_to(root):
            name = name.relative_to(root)
        seconds, labels = round(length, 3), entry.labels or ""
        known = (name.as_posix(), entry.caption, entry.split, seconds, entry.clip, labels)
        rows.append((*known, entry.number or ""))
        clips.add((entry.key, entry.split))
    _write_csv(out / MANIFEST, MANIFEST_COLUMNS, rows)
    _write_csv(out / MISSING, ("youtube_id", "start_time", "split", "reason"), missing.values())
    return {
        "clips": len(clips),
        "captions": len(rows),
        "splits": dict(Counter(split for _, split in clips)),
        "missing": len(missing),
        "failed": sum(key in failures for key in missing),
    }


def _read_failures(path: Path) -> dict[tuple[str, float], str]:
    """The clips that could not be fetched, with the reason. ValueError for another table."""
    if not path.exists():
        return {}
    columns, rows = read_table(path)
    starts = [seconds_in(row.get("start_time")) for row in rows]
    if not columns >= {"youtube_id", "start_time", "reason"} or None in starts:
        raise ValueError(f"{path}: not a list of failures; remove it to try all clips again")
    pairs = zip(rows, starts, strict=True)
    return {(row["youtube_id"], start): row["reason"] for row, start in pairs if start is not None}


def _write_failures(path: Path, failures: Mapping[tuple[str, float], str]) -> None:
    rows = [(clip, f"{start:g}", reason) for (clip, start), reason in failures.items()]
    _write_csv(path, ("youtube_id", "start_time", "reason"), rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def _sweep(out: Path) -> None:
    """Remove what a killed run left: its staging folder."""
    for folder in out.glob(f"{_STAGING}*"):
        shutil.rmtree(folder, ignore_errors=True)
