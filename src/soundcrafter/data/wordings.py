"""Other ways to ask for a label: "hound, woof woof" for a dog's bark."""

from collections.abc import Collection
from os import PathLike
from pathlib import Path

from soundcrafter.data.manifest import normalize_caption, read_table

COLUMNS = {"family", "split", "wording"}


def read_wordings(
    path: str | PathLike[str], split: str = "train", exclude: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Family -> its wordings, from a csv with the columns family, split and wording.

    Leaves out those that are empty and those that, normalised, stand in `exclude`. Raises
    ValueError for a file that cannot be read, a missing column and a split without rows.
    """
    table = Path(path)
    columns, rows = read_table(table)
    if missing := COLUMNS - columns:
        raise ValueError(f"{table}: no column {', '.join(sorted(missing))}")
    found: dict[str, list[str]] = {}
    for row in rows:
        wording = (row["wording"] or "").strip()
        if row["split"] == split and wording and normalize_caption(wording) not in exclude:
            found.setdefault(row["family"], []).append(wording)
    if not found:
        splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise ValueError(f"{table}: no wording in split {split!r}; there are: {splits}")
    return {family: tuple(wordings) for family, wordings in found.items()}
