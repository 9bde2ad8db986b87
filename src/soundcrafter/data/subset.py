"""Subsets of AudioCaps: published lists of clips and captions, and random draws."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soundcrafter.data.captions import normalize_caption
from soundcrafter.data.clip_names import parse_clip_name
from soundcrafter.data.layouts import CaptionEntry, read_layout
from soundcrafter.data.tables import read_table, wrong_columns

ClipKey = tuple[str, float | None]  # id and start of a clip, as `CaptionEntry.key`


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which captions are used. Every draw depends only on the seed and the clip's id, not on the
    order of the tables."""

    one_caption: bool = False  # draw one of each clip's captions
    random_validation: float | None = None  # share of the train clips that becomes dev
    only: Path | None = None  # a list of clips or captions, see `read_clip_list`
    exclude: Path | None = None  # a list of clips to leave out, in the same formats
    limit: int | None = None  # draw this many clips; a higher limit draws the same ones and more
    seed: int = 0

    def __post_init__(self) -> None:
        share = self.random_validation
        if share is not None and not 0 < share < 1:
            raise ValueError(f"random_validation: got {share}; allowed: above 0, below 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: got {self.limit}; allowed: 1 or more")


def select(entries: Sequence[CaptionEntry], selection: Selection) -> tuple[list[CaptionEntry], int]:
    """Return the selected captions in their order, and the number of unknown ones in its list.

    Raises ValueError if no caption is left, and for `random_validation` if the tables already
    contain a validation split.
    """
    kept, unknown = list(entries), 0
    if selection.only is not None:
        kept, unknown = read_clip_list(selection.only).choose(kept)
        if not kept:
            raise ValueError(f"{selection.only}: lists none of the clips in the tables")
    if selection.exclude is not None:
        listed = {entry.key for entry in read_clip_list(selection.exclude).choose(kept)[0]}
        kept = [entry for entry in kept if entry.key not in listed]
        if not kept:
            raise ValueError(f"{selection.exclude}: lists all clips in the tables")
    if selection.random_validation is not None:
        kept = _split_off(kept, selection.random_validation, selection.seed)
    if selection.limit is not None:
        order = sorted({e.key for e in kept}, key=lambda key: _draw(selection.seed, "limit", *key))
        chosen = set(order[: selection.limit])
        kept = [entry for entry in kept if entry.key in chosen]
    if selection.one_caption:
        drawn: dict[ClipKey, tuple[float, str, int]] = {}
        for place, entry in enumerate(kept):
            draw = _draw(selection.seed, "caption", *entry.key, entry.caption)
            rank = (draw, entry.number or "", place)
            drawn[entry.key] = min(rank, drawn.get(entry.key, rank))
        places = {place for *_, place in drawn.values()}
        kept = [entry for place, entry in enumerate(kept) if place in places]
    return kept, unknown


def _split_off(entries: Sequence[CaptionEntry], share: float, seed: int) -> list[CaptionEntry]:
    """Move each train clip with all its captions to dev with probability `share`."""
    splits = Counter(entry.split for entry in entries)
    if splits["dev"] or not splits["train"]:
        raise ValueError(
            f"random_validation: the tables have {dict(splits)} captions; "
            "requires a train table and no validation table"
        )
    return [
        replace(entry, split="dev")
        if entry.split == "train" and _draw(seed, "validation", entry.clip) < share
        else entry
        for entry in entries
    ]


def _draw(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends only on its arguments, not on the machine."""
    text = "\0".join(map(str, (seed, *parts)))
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, kw_only=True)
class ClipList:
    """A list of clips or captions, such as the test set of published results."""

    numbers: frozenset[str] = frozenset()  # audiocap_ids
    clips: frozenset[str] = frozenset()  # YouTube ids
    captions: frozenset[tuple[str, str]] = frozenset()  # (YouTube id, normalised caption)

    def choose(self, entries: Sequence[CaptionEntry]) -> tuple[list[CaptionEntry], int]:
        """Return the listed captions, and the number of listed clips (or numbers) not found."""
        pairs = {(entry.clip, normalize_caption(entry.caption)) for entry in entries}
        fixed = {clip for clip, _ in pairs & self.captions}  # clips with a listed caption
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


def read_clip_list(path: Path) -> ClipList:
    """Read a list of clips or captions, such as a published test set.

    AudioCaps results are usually reported on 964 of the 975 test clips with one caption each, as
    listed in audiocaps_test_nonrepeat_subset_*.json of haoheliu/audioldm_eval; TANGO has its own
    test file. Both can be read, and select the listed caption of a clip if the clip has it. A csv
    with audiocap_id lists captions; a csv with only youtube_id or a text file of ids lists clips.
    Raises ValueError for an unreadable file and an empty list.
    """
    if path.suffix.lower() == ".csv":
        columns, rows = read_table(path)
        if not columns & {"youtube_id", "audiocap_id"}:
            raise wrong_columns(path, columns, "audiocap_id or youtube_id")
        cells = {name: {(row.get(name) or "").strip() for row in rows} - {""} for name in columns}
        listed = ClipList(
            numbers=frozenset(cells.get("audiocap_id", ())),
            clips=frozenset(parse_clip_name(cell)[0] for cell in cells.get("youtube_id", ())),
        )
    elif path.suffix.lower() in (".json", ".jsonl"):
        entries = read_layout(path)
        listed = ClipList(
            clips=frozenset(entry.clip for entry in entries),
            captions=frozenset((e.clip, normalize_caption(e.caption)) for e in entries),
        )
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot read: {error}") from None
        listed = ClipList(clips=frozenset(parse_clip_name(Path(line).stem)[0] for line in lines))
    if not (listed.numbers or listed.clips):
        raise ValueError(f"{path}: lists no clips")
    return listed
