"""Which of AudioCaps' captions are wanted: lists that others published, draws by seed and clip."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soundcrafter.data.layouts import Entry, clip_of, read_layout
from soundcrafter.data.manifest import normalize_caption, read_table

Key = tuple[str, float | None]
"""A clip's id and start, as `Entry.key`."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which captions are wanted. Every draw is a function of the seed and the clip's id alone:
    the order of the tables changes nothing."""

    one_caption: bool = False  # one of each clip's captions, drawn
    random_validation: float | None = None  # this share of the train clips becomes dev
    only: Path | None = None  # a list of clips or captions, see `read_only`
    exclude: Path | None = None  # a list of clips to leave out, in the same forms
    limit: int | None = None  # so many clips, drawn; fewer are always among more
    seed: int = 0

    def __post_init__(self) -> None:
        share = self.random_validation
        if share is not None and not 0 < share < 1:
            raise ValueError(f"random_validation: got {share}; allowed: above 0, below 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: got {self.limit}; allowed: 1 or more")


def select(entries: Sequence[Entry], selection: Selection) -> tuple[list[Entry], int]:
    """The captions that `selection` wants, in their order; and how many of its list are unknown.

    Raises ValueError where nothing is left, and for a random validation part beside a given one.
    """
    kept, unknown = list(entries), 0
    if selection.only is not None:
        kept, unknown = read_only(selection.only).choose(kept)
        if not kept:
            raise ValueError(f"{selection.only}: lists none of the clips of the tables")
    if selection.exclude is not None:
        listed = {entry.key for entry in read_only(selection.exclude).choose(kept)[0]}
        kept = [entry for entry in kept if entry.key not in listed]
        if not kept:
            raise ValueError(f"{selection.exclude}: lists all clips of the tables")
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
