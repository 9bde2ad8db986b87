"""The captions of clips in the metadata files of AudioLDM and TANGO."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.data.clip_names import parse_clip_name, project_split
from soundcrafter.files import read_json

_LAYOUTS = (
    'AudioLDM ({"metadata": {"path": ...}} or {"data": [{"wav", "caption"}]}) '
    'or TANGO (lines of {"dataset", "location", "captions"})'
)
_NOT_SPLITS = ("class_label_indices",)  # AudioLDM lists its table of classes among the splits


@dataclass(frozen=True, kw_only=True)
class CaptionEntry:
    """One caption of one clip."""

    clip: str  # the YouTube id if there is one, otherwise the file name without suffix
    start: float | None = None  # seconds into the video; None: not stated
    caption: str
    split: str  # train, dev, test
    number: str | None = None  # audiocap_id, unique to the caption
    labels: str | None = None  # as in the metadata: AudioSet ids separated by commas
    file: Path | None = None  # the audio file that the metadata names

    @property
    def key(self) -> tuple[str, float | None]:
        """Identifies the clip."""
        return self.clip, self.start


def read_layout(path: Path) -> list[CaptionEntry]:
    """Return the captions in a metadata file of AudioLDM or TANGO; its content decides which.

    AudioLDM's root file names data files and folders. For a data file on its own, the split comes
    from its name and the audio from its folder. A clip with several captions gives several entries.
    Raises ValueError for an unreadable file, other content, and an item without audio or caption.
    """
    if path.suffix.lower() == ".jsonl" or _has_json_lines(path):
        return [entry for row in _read_lines(path) for entry in _entries(path, row, "location")]
    data = read_json(path)
    if isinstance(data, dict) and isinstance(data.get("metadata"), dict):
        return _audioldm_root(path, data)
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        return _audioldm_data(path, path.parent, project_split(path.stem))
    raise ValueError(f"{path}: expected the metadata of {_LAYOUTS}")


def _has_json_lines(path: Path) -> bool:
    """Whether a file is TANGO's: those are called .json, but hold one object per line."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            first = json.loads(stream.readline())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError:
        return False
    return isinstance(first, dict) and "location" in first


def _read_lines(path: Path) -> list[Any]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not lines of JSON: {error}") from None


def _audioldm_root(path: Path, root: dict[str, Any]) -> list[CaptionEntry]:
    tables = root["metadata"].get("path")
    if not (isinstance(tables, dict) and all(isinstance(v, dict) for v in tables.values())):
        raise ValueError(f'{path}: "metadata" needs {{"path": {{dataset: {{split: file}}}}}}')
    entries: list[CaptionEntry] = []
    for dataset, splits in tables.items():
        if not isinstance(root.get(dataset), str):
            raise ValueError(f"{path}: names no audio folder for {dataset!r}")
        audio = _locate(path, root[dataset])
        for split, file in splits.items():
            if split not in _NOT_SPLITS:
                entries += _audioldm_data(_locate(path, str(file)), audio, project_split(split))
    return entries


def _locate(root_file: Path, name: str) -> Path:
    """The path of a name in a root file. It is relative to AudioLDM's repository, which is one of
    the folders above the file."""
    places = [folder / name for folder in root_file.resolve().parents]
    return next((place for place in places if place.exists()), places[0])


def _audioldm_data(path: Path, audio: Path, split: str) -> list[CaptionEntry]:
    data = read_json(path)
    rows = data.get("data") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f'{path}: expected {{"data": [{{"wav": ..., "caption": ...}}]}}')
    return [entry for row in rows for entry in _entries(path, row, "wav", audio, split)]


def _entries(
    path: Path, row: Any, key: str, folder: Path | None = None, split: str | None = None
) -> Iterator[CaptionEntry]:
    """One entry per caption. Every key that contains "caption" holds one or several captions."""
    name = row.get(key) if isinstance(row, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{path}: an item names no audio ({key!r}): {str(row)[:80]}")
    file = (folder or path.parent) / name
    held = [row[field] for field in row if "caption" in field]
    texts = [text for each in held for text in (each if isinstance(each, list) else [each])]
    captions = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not captions:
        raise ValueError(f"{path}: {name} has no caption")
    labels, (clip, start) = row.get("labels"), parse_clip_name(file.stem)
    for caption in captions:
        yield CaptionEntry(
            clip=clip,
            start=start,
            caption=caption,
            split=split or project_split(path.stem),
            labels=labels if isinstance(labels, str) else None,
            file=file,
        )
