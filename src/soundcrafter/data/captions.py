"""Captions: when two count as equal, reading them from tables, and excluding them from data."""

import re
from collections.abc import Sequence
from importlib import resources
from os import PathLike
from pathlib import Path

from soundcrafter.data.clip_names import AUDIOCAPS_COLUMNS
from soundcrafter.data.manifest import Manifest, filter_recordings
from soundcrafter.data.tables import parse_text, read_table, require_columns, wrong_columns

FROZEN = "frozen:"  # prefix of the name of prompts that come with the package
STOP_WORDS = (
    r"\b(a|an|the|and|or|but|of|in|on|at|to|with|by|for|from|into|onto|as|is|are|was|were|be|been"
    r"|being|it|its|this|that|these|those|while|then|there|some)\b"
)


def normalize_caption(text: str) -> str:
    """Return a caption in lower case, without punctuation and English stop words.

    Captions that are equal after this count as the same caption.
    """
    words = re.sub(r"[\W_]+", " ", re.sub("['\u2019]", "", text.lower()))
    return " ".join(re.sub(STOP_WORDS, " ", words).split())


def exclude_captions(manifest: Manifest, tables: Sequence[str]) -> Manifest:
    """Leave out the recordings whose normalised caption is in one of the tables.

    Tables are paths of csv or jsonl files (see `read_captions`), or `frozen:NAME` for the frozen
    prompts families, added_families, free, composition or figure4. Raises ValueError for a missing
    table or column, and if no recording is left.
    """
    excluded = read_excluded(tables)
    return filter_recordings(
        manifest,
        lambda recording: (
            "its caption is excluded"
            if recording.caption is not None and normalize_caption(recording.caption) in excluded
            else None
        ),
        f"exclude_captions: {', '.join(tables)}",
    )


def read_excluded(tables: Sequence[str]) -> set[str]:
    """Return the normalised captions in the tables that `exclude_captions` accepts."""
    found = (caption for table in tables for caption in read_captions(_table_path(table)))
    return {normalize_caption(caption) for caption in found} - {""}


def _table_path(table: str) -> Path:
    """The path of a table; that of `frozen:NAME` is in the installed package."""
    if not table.startswith(FROZEN):
        return Path(table)
    folder = Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts"
    return folder / f"{table.removeprefix(FROZEN)}.csv"


def read_captions(path: str | PathLike[str]) -> list[str]:
    """Return the captions in a csv or jsonl file that are not empty.

    They are in the column caption or else prompt, and in the column reversed if there is one.
    Raises ValueError for a missing file or column.
    """
    table = Path(path)
    columns, rows = read_table(table)
    column = next((name for name in ("caption", "prompt") if name in columns), None)
    if column is None:
        raise wrong_columns(table, columns, "caption or prompt")
    found = (parse_text(row.get(name)) for row in rows for name in (column, "reversed"))
    return [text for text in found if text is not None]


def read_caption_groups(path: str | PathLike[str]) -> list[tuple[str, ...]]:
    """Return the captions of each AudioCaps clip that has several.

    Raises ValueError for a missing file or column.
    """
    table = Path(path)
    columns, rows = read_table(table)
    require_columns(table, columns, AUDIOCAPS_COLUMNS)
    clips: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if (caption := parse_text(row.get("caption"))) is not None:
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(caption)
    return [tuple(captions) for captions in clips.values() if len(captions) > 1]
