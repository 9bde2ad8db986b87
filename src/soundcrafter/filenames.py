"""Names of the files that sounds are written to."""

import os
import re
import string
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

FIELDS = ("index", "slug", "seed", "take", "name")
MAX_BYTES = 240  # of a file name; most file systems allow 255, and temporary names are longer
_SLUG_LETTERS = 60
_SLUG_BYTES = 180


def slug(text: str) -> str:
    """Turn a text into part of a file name: letters and digits of any script, "-" for all else.

    Falls back to "sound".
    """
    kept = [c if unicodedata.category(c)[0] in "LNM" else " " for c in text.lower()]
    words = "-".join("".join(kept).split())[:_SLUG_LETTERS]
    return words.encode()[:_SLUG_BYTES].decode(errors="ignore").strip("-") or "sound"


def expand_name(template: str, **fields: object) -> str:
    """Fill in a template such as "{index:03}-{slug}-{seed}".

    Raises ValueError for a field that is not in FIELDS, a malformed template, and a result that is
    not a plain file name.
    """
    try:
        for _, field, width, _ in string.Formatter().parse(template):
            if field is not None and field not in FIELDS:  # attributes and indices too
                raise ValueError(f"unknown field {{{field}}}")
            if re.search(r"\d{4}", width or ""):
                raise ValueError(f"a width of {width}; at most 999")
        name = template.format(**fields)
    except (ValueError, KeyError, IndexError) as error:
        allowed = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise ValueError(f"name: got {template!r}: {error}; allowed fields: {allowed}") from None
    check_name(name)
    return name


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is a plain file name that every operating system allows."""
    unusable = (
        not name.strip(" .")
        or name.startswith(".")
        or len(name.encode(errors="replace")) > MAX_BYTES - 4
    )
    if unusable or any(c in '/\\:*?"<>|' or unicodedata.category(c) == "Cc" for c in name):
        raise ValueError(
            f"name: got {name!r}; allowed: no folders, no leading dot, none of "
            '\\ : * ? " < > |, at most 236 bytes'
        )


def free_path(
    path: Path,
    taken: Collection[Path],
    *,
    on_disk: bool = False,
    suffixes: Sequence[str] = (),
    mark: str = "-",
) -> Path:
    """Return the path, or the first of NAME-2, NAME-3, ... that is free.

    A name is free if it is not in `taken` and, with `on_disk`, if nothing exists under it with its
    own suffix or one of `suffixes`, not even a broken link. `mark` stands before the number.
    """
    number, free = 1, path
    while free in taken or (on_disk and _is_taken(free, suffixes)):
        number += 1
        free = path.with_name(f"{path.stem}{mark}{number}{path.suffix}")
    return free


def _is_taken(path: Path, suffixes: Sequence[str]) -> bool:
    return any(os.path.lexists(path.with_suffix(suffix)) for suffix in (path.suffix, *suffixes))
