"""The recordings of shards as rows of a table, which the manifest is made from."""

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from soundcrafter.audio import AUDIO_SUFFIXES
from soundcrafter.data.shards import Sample, Skipped, open_shards
from soundcrafter.data.tables import Row, split_captions
from soundcrafter.files import FilePart

MAX_TEXT = 2**20  # bytes of a sample's json, txt or cls
SECTIONS = "recordings"  # in a sample's json: its sections, if it has several


@dataclass(frozen=True, kw_only=True)
class ShardTable:
    """Rows as those of a csv table, and the parts of shards that their files are."""

    root: Path  # folder that the names of files are relative to
    rows: list[Row]
    parts: dict[str, FilePart]  # by the file's name in the rows
    skipped: Skipped


def read_shard_table(data: str | PathLike[str]) -> ShardTable:
    """Read the rows of shards: those of a sample's json, with its txt as caption and its cls as
    label.

    The json's `text` (as in LAION's data) is a caption too. Samples without a sound or with damaged
    metadata are left out. Raises ValueError as `open_shards` does.
    """
    root, shards, skipped = open_shards(data)
    rows: list[Row] = []
    parts: dict[str, FilePart] = {}
    for shard in shards:
        skipped += shard.skipped
        for sample in shard.samples:
            try:
                sound = _sound(sample)
                found = _rows(sample)
            except ValueError as error:
                skipped.append((f"{shard.name}/{sample.key}", str(error)))
                continue
            name = f"{shard.name}/{sound.name}"
            parts[name] = sound
            rows += [{**row, "file": name} for row in found]
    return ShardTable(root=root, rows=split_captions(rows), parts=parts, skipped=skipped)


def _sound(sample: Sample) -> FilePart:
    for member in sample.members.values():
        if member.suffix.lower() in AUDIO_SUFFIXES:
            return member
    raise ValueError(f"no sound; it has: {', '.join(sample.members)}")


def _rows(sample: Sample) -> list[Row]:
    members = sample.members
    shared: dict[str, Any] = {}
    if "txt" in members:
        shared["caption"] = _text(members["txt"])
    if "cls" in members:
        shared["label"] = _text(members["cls"])
    if "json" in members:
        try:
            facts = json.loads(_text(members["json"]))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{members['json'].name}: not JSON: {error}") from None
        if not isinstance(facts, dict):
            raise ValueError(f"{members['json'].name}: not a JSON object")
        if "text" in facts:
            shared.setdefault("caption", facts["text"])
        shared |= {key: value for key, value in facts.items() if value is not None}
    sections = shared.pop(SECTIONS, None)
    if isinstance(sections, list) and sections and all(isinstance(s, dict) for s in sections):
        return [{**shared, **section} for section in sections]
    return [shared]


def _text(member: FilePart) -> str:
    try:
        return member.read(MAX_TEXT).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{member.name}: not UTF-8") from None
