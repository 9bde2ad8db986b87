"""How others lay out captioned clips: the names of AudioCaps clips, and the metadata files of
AudioLDM and TANGO."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.audio import AUDIO_SUFFIXES, list_audio
from soundcrafter.files import read_json

CLIP_SECONDS = 10  # every AudioCaps clip, as every AudioSet segment
SPLITS = ("train", "val", "test")  # as AudioCaps names its tables
NOT_SPLITS = ("class_label_indices",)  # AudioLDM keeps its table of classes beside the splits
LAYOUTS = (
    'AudioLDM ({"metadata": {"path": ...}} or {"data": [{"wav", "caption"}]}) '
    'or TANGO (lines of {"dataset", "location", "captions"})'
)
# A YouTube id has 11 characters; AudioSet's files put a Y before it.
_CLIP_NAME = re.compile(
    r"(?:Y(?=[\w-]{11}(?:_\d|$)))?([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:_(\d+(?:\.\d+)?))?)?", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One caption of one clip, as a metadata file tells it."""

    clip: str  # the YouTube id where there is one, else the file's name without suffix
    start: float | None = None  # seconds into the video; None: not told
    caption: str
    split: str  # train, dev, test
    number: str | None = None  # audiocap_id: one a caption
    labels: str | None = None  # as they stand: AudioSet's ids, joined by commas
    file: Path | None = None  # where the metadata says that the audio is

    @property
    def key(self) -> tuple[str, float | None]:
        """What tells one clip from another."""
        return self.clip, self.start


def clip_name(clip: str, start: float) -> str:
    """The name, without suffix, that a fetched clip gets: it says which part of the video it is."""
    return f"{clip}_{start:g}"


def clip_names(clip: str, start: float | None, *, alone: bool = True) -> Iterator[str]:
    """The names, without suffix, that a clip has in the wild, the telling ones first.

    `<id>_<start>` and `<id>_<start>_<end>` in seconds, milliseconds or six digits, each with or
    without a Y before the id; last `Y<id>` and `<id>`, which are only a clip's own where it is the
    `alone` one of its video.
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


def clip_of(name: str) -> tuple[str, float | None]:
    """The YouTube id and the start in seconds that a clip's name without suffix tells; the name
    itself where it is no such name. A start alone is read as seconds."""
    found = _CLIP_NAME.fullmatch(name)
    if found is None:
        return name, None
    clip, start, end = found.groups()
    if start is None:
        return clip, None
    in_thousandths = end is not None and float(end) - float(start) >= 1000
    return clip, float(start) / (1000 if in_thousandths else 1)


def find_clip(
    files: Mapping[str, Path], clip: str, start: float | None, *, alone: bool = True
) -> Path | None:
    """The clip's file among `files`, named as `clip_names` says; None where it is not there."""
    names = clip_names(clip, start, alone=alone)
    return next((files[name] for name in names if name in files), None)


def index_audio(folder: Path, *, below: bool = True) -> dict[str, Path]:
    """The audio files of a folder, by name without suffix; `below` looks into its folders too.

    Of equal names the first path stays. Hidden files, which may be half written, are left out.
    """
    files: dict[str, Path] = {}
    for file in list_audio(folder) if below else sorted(folder.iterdir()):
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith("."):
            files.setdefault(file.stem, file)
    return files


def seconds_in(text: str | None) -> float | None:
    """The seconds that a table's cell tells, 0 or more; None where it tells none."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def split_in(name: str) -> str | None:
    """The split that a table's name speaks of, in AudioCaps' words: train, val, test or None."""
    return next((split for split in SPLITS if split in name.lower()), None)


def read_layout(path: Path) -> list[Entry]:
    """The captions of an AudioLDM or TANGO metadata file; which it is, its content says.

    AudioLDM's root file names data files and folders; a data file alone takes its split from its
    name and its audio from its own folder. A clip with several captions gives several entries.
    Raises ValueError for an unreadable file, another content and an item without audio or caption.
    """
    if path.suffix.lower() == ".jsonl" or _is_lines(path):
        return [entry for row in _lines(path) for entry in _entries_of(path, row, "location")]
    data = read_json(path)
    if isinstance(data, dict) and isinstance(data.get("metadata"), dict):
        return _audioldm_root(path, data)
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        return _audioldm_data(path, path.parent, own_split(path.stem))
    raise ValueError(f"{path}: expected the metadata of {LAYOUTS}")


def _is_lines(path: Path) -> bool:
    """TANGO calls its files .json, but they hold an object a line."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            first = json.loads(stream.readline())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError:
        return False
    return isinstance(first, dict) and "location" in first


def _lines(path: Path) -> list[Any]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not lines of JSON: {error}") from None


def _audioldm_root(path: Path, root: dict[str, Any]) -> list[Entry]:
    tables = root["metadata"].get("path")
    if not (isinstance(tables, dict) and all(isinstance(v, dict) for v in tables.values())):
        raise ValueError(f'{path}: "metadata" needs {{"path": {{dataset: {{split: file}}}}}}')
    entries: list[Entry] = []
    for dataset, splits in tables.items():
        if not isinstance(root.get(dataset), str):
            raise ValueError(f"{path}: names no audio folder for {dataset!r}")
        audio = _locate(path, root[dataset])
        for split, file in splits.items():
            if split not in NOT_SPLITS:
                entries += _audioldm_data(_locate(path, str(file)), audio, own_split(split))
    return entries


def _locate(root_file: Path, name: str) -> Path:
    """AudioLDM's paths start where its repository does: some folder above the root file."""
    places = [folder / name for folder in root_file.resolve().parents]
    return next((place for place in places if place.exists()), places[0])


def _audioldm_data(path: Path, audio: Path, split: str) -> list[Entry]:
    data = read_json(path)
    rows = data.get("data") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f'{path}: expected {{"data": [{{"wav": ..., "caption": ...}}]}}')
    return [entry for row in rows for entry in _entries_of(path, row, "wav", audio, split)]


def _entries_of(
    path: Path, row: Any, key: str, folder: Path | None = None, split: str | None = None
) -> Iterator[Entry]:
    """One entry a caption; any key with "caption" in it holds one text or several."""
    name = row.get(key) if isinstance(row, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{path}: an item names no audio ({key!r}): {str(row)[:80]}")
    file = (folder or path.parent) / name
    held = [row[field] for field in row if "caption" in field]
    texts = [text for each in held for text in (each if isinstance(each, list) else [each])]
    captions = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not captions:
        raise ValueError(f"{path}: {name} has no caption")
    labels, (clip, start) = row.get("labels"), clip_of(file.stem)
    for caption in captions:
        yield Entry(
            clip=clip,
            start=start,
            caption=caption,
            split=split or own_split(path.stem),
            labels=labels if isinstance(labels, str) else None,
            file=file,
        )


def own_split(name: str) -> str:
    """The split that a name speaks of in this project's words: train (also for none), dev, test."""
    found = split_in(name) or ("val" if "dev" in name.lower() else "train")
    return "dev" if found == "val" else found
