"""Alternative wordings of labels, such as "hound, woof woof" for the bark of a dog."""

from collections.abc import Collection
from os import PathLike
from pathlib import Path

from soundcrafter.data.captions import normalize_caption
from soundcrafter.data.tables import read_table, require_columns


def read_wordings(
    path: str | PathLike[str], split: str = "train", exclude: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Return the wordings of each family in a split of a csv (columns family, split, wording).

    Empty wordings, and those whose normalised form is in `exclude`, are left out. Raises ValueError
    for a file that cannot be read, a missing column and a split without wordings.
    """
    table = Path(path)
    columns, rows = read_table(table)
    require_columns(table, columns, ("family", "split", "wording"))
    found: dict[str, list[str]] = {}
    for row in rows:
        wording = (row["wording"] or "").strip()
        if row["split"] == split and wording and normalize_caption(wording) not in exclude:
            found.setdefault(row["family"], []).append(wording)
    if not found:
        splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise ValueError(f"{table}: no wording in split {split!r}; there are: {splits}")
    return {family: tuple(wordings) for family, wordings in found.items()}
