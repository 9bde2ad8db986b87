"""Reading the reports that `soundcrafter evaluate` wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soundcrafter.files import read_json

REPORT = "report.json"
_SOUND = {"file": str, "prompt": str, "seed": int}  # keys that every sound has, and their types


def read_reports(outs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the reports of evaluation folders, each with a unique name.

    A report without a name (of two folders) gets the name of its folder; equal names are followed
    by the folder in brackets. Raises ValueError for no folder, a missing file, and a file that is
    not such a report.
    """
    if not outs:
        raise ValueError("report: got no folder; give one or more that evaluate wrote")
    reports = [_read_report(out / REPORT) for out in outs]
    names = [report.get("name") or out.name for out, report in zip(outs, reports, strict=True)]
    counts = Counter(names)
    unique = [
        f"{name} [{out.as_posix()}]" if counts[name] > 1 else name
        for name, out in zip(names, outs, strict=True)
    ]
    return [{**report, "name": name} for report, name in zip(reports, unique, strict=True)]


def _read_report(file: Path) -> dict[str, Any]:
    report = read_json(file)
    entries = report.get("embedders") if isinstance(report, dict) else None
    if not isinstance(entries, list):
        raise ValueError(
            f"{file}: is not a comparison of sounds; allowed: the reports of soundcrafter evaluate "
            "captions, families, free, prompts and folders"
        )
    for entry in entries:
        _check(file, "embedder", entry, {"embedder": str, "sha256": str, "sample_rate": int})
    return dict(report)


def read_sounds(out: Path) -> list[dict[str, Any]]:
    """Return the generated sounds that the report of an evaluation folder lists.

    Each has at least a file (below the folder), a prompt and a seed. Raises ValueError for a
    missing or malformed report, and for one that lists no sounds.
    """
    file = out / REPORT
    report = read_json(file)
    sounds = report.get("sounds") if isinstance(report, dict) else None
    if not isinstance(sounds, list) or not sounds:
        raise ValueError(
            f"{file}: lists no sounds; allowed: the reports of soundcrafter evaluate captions, "
            "families, free and prompts"
        )
    for sound in sounds:
        _check(file, "sound", sound, _SOUND)
    return sounds


def _check(file: Path, what: str, entry: Any, types: Mapping[str, type]) -> None:
    """Raise ValueError unless an entry of a report is an object with values of these types."""
    wrong = [
        key
        for key, kind in types.items()
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind)
    ]
    if wrong:
        raise ValueError(f"{file}: malformed: the {what} {str(entry)[:60]} lacks {wrong[0]}")
