"""Names of the files that sounds are written to."""

import string
import unicodedata
from collections.abc import Collection
from pathlib import Path

FIELDS = ("index", "slug", "seed", "take", "name")
_SLUG_LETTERS = 60
_SLUG_BYTES = 180  # most file systems allow 255 bytes to a name


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
        for _, field, _, _ in string.Formatter().parse(template):
            if field is not None and field not in FIELDS:  # attributes and indices too
                raise ValueError(f"unknown field {{{field}}}")
        name = template.format(**fields)
    except (ValueError, KeyError, IndexError) as error:
        allowed = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise ValueError(f"name: got {template!r}: {error}; allowed fields: {allowed}") from None
    check_name(name)
    return name


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is a plain file name that every operating system allows."""
    unusable = not name.strip(" .") or name.startswith(".") or len(name.encode()) > 240
    if unusable or any(c in '/\\:*?"<>|' or unicodedata.category(c) == "Cc" for c in name):
        raise ValueError(
            f"name: got {name!r}; allowed: no folders, no leading dot, none of "
            '\\ : * ? " < > |, at most 240 bytes'
        )


def free_path(path: Path, taken: Collection[Path], *, on_disk: bool) -> Path:
    """Return the path, or the first of NAME-2, NAME-3, ... that is free: neither in `taken` nor,
    if `on_disk`, an existing file."""
    number, free = 1, path
    while free in taken or (on_disk and free.exists()):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
