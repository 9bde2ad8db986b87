"""AudioCaps clips in files: the names that their files have, and finding a clip by its name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from soundcrafter.audio import AUDIO_SUFFIXES, list_audio

AUDIOCAPS_COLUMNS = ("youtube_id", "start_time", "caption")  # of its csv tables
CLIP_SECONDS = 10  # of every AudioCaps clip, as of every AudioSet segment
SPLITS = ("train", "val", "test")  # in the names of AudioCaps tables
# A YouTube id has 11 characters. AudioSet prefixes it with Y in file names.
_CLIP_NAME = re.compile(
    r"(?:Y(?=[\w-]{11}(?:_\d|$)))?([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:_(\d+(?:\.\d+)?))?)?", re.ASCII
)


def clip_name(clip: str, start: float) -> str:
    """Return the name, without suffix, of a downloaded clip that starts at `start` seconds."""
    return f"{clip}_{start:g}"


def clip_names(clip: str, start: float | None, *, alone: bool = True) -> Iterator[str]:
    """Yield the names, without suffix, that a clip has in common data sets, most specific first.

    `<id>_<start>` and `<id>_<start>_<end>` in seconds, milliseconds or six digits, each with and
    without a Y before the id; then `Y<id>` and `<id>`, but only if the clip is the `alone` one of
    its video.
    """
    if start is not None:
        end = start + CLIP_SECONDS
        for form in ("{:g}", "{:.1f}", "{:.3f}", "{:06.0f}"):
            yield from _with_times(clip, form.format(start), form.format(end))
        yield from _with_times(clip, f"{start * 1000:.0f}", f"{end * 1000:.0f}")
    if alone:
        yield from (f"Y{clip}", clip)


def _with_times(clip: str, start: str, end: str) -> Iterator[str]:
    for prefix in ("", "Y"):
        yield from (f"{prefix}{clip}_{start}", f"{prefix}{clip}_{start}_{end}")


def parse_clip_name(name: str) -> tuple[str, float | None]:
    """Return the YouTube id and the start in seconds that a file name without suffix contains.

    Another name is returned as it is, with None. A start without an end is read as seconds.
    """
    found = _CLIP_NAME.fullmatch(name)
    if found is None:
        return name, None
    clip, start, end = found.groups()
    if start is None:
        return clip, None
    in_milliseconds = end is not None and float(end) - float(start) >= 1000
    return clip, float(start) / (1000 if in_milliseconds else 1)


def find_clip(
    files: Mapping[str, Path], clip: str, start: float | None, *, alone: bool = True
) -> Path | None:
    """Return the first of `files` with one of the clip's names (see `clip_names`), or None."""
    names = clip_names(clip, start, alone=alone)
    return next((files[name] for name in names if name in files), None)


def index_audio(folder: Path, *, recursive: bool = True) -> dict[str, Path]:
    """Return the audio files of a folder by name without suffix; the first of equal names.

    Hidden files are left out, because they may be incomplete.
    """
    files: dict[str, Path] = {}
    for file in list_audio(folder) if recursive else sorted(folder.iterdir()):
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith("."):
            files.setdefault(file.stem, file)
    return files


def find_split(name: str) -> str | None:
    """Return the AudioCaps split (train, val or test) that a table's name contains, or None."""
    return next((split for split in SPLITS if split in name.lower()), None)


def project_split(name: str) -> str:
    """Return the split that a name stands for in this project: train (the default), dev or test."""
    found = find_split(name) or ("val" if "dev" in name.lower() else "train")
    return "dev" if found == "val" else found
