"""Other ways to ask for a label: "hound, woof woof" for a dog's bark."""

import csv
from collections.abc import Collection
from os import PathLike
from pathlib import Path

from soundcrafter.data.manifest import normalize_caption

COLUMNS = {"family", "split", "wording"}


def read_wordings(
    path: str | PathLike[str], split: str = "train", exclude: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Family -> its wordings, from a csv with the columns family, split and wording.

    Leaves out those that, normalised, stand in `exclude`. Raises ValueError for a file that cannot
    be read, a missing column and a split without rows.
    """
    table = Path(path)
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = COLUMNS - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: cannot read: {error}") from None
    if missing:
        raise ValueError(f"{table}: no column {', '.join(sorted(missing))}")
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["split"] == split and normalize_caption(row["wording"]) not in exclude:
            found.setdefault(row["family"], []).append(row["wording"])
    if not found:
        splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise ValueError(f"{table}: no wording in split {split!r}; there are: {splits}")
    return {family: tuple(wordings) for family, wordings in found.items()}
