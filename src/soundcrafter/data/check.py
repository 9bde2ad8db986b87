"""A look at a manifest before training: what is there, what cannot be read."""

from collections import Counter
from pathlib import Path
from typing import Any

from soundcrafter.audio import channels_cancel, read_channels
from soundcrafter.data.dataset import prefetch
from soundcrafter.data.manifest import Manifest, read_manifest
from soundcrafter.progress import Progress

_THREADS = 2
_LOST_SECONDS = 0.1  # an encoder's padding is shorter


def check(
    data: Path,
    split: str | None = None,
    label_column: str = "label",
    *,
    decode: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Counts of a manifest, ready for JSON; with `decode` every file is read to its end,
    and `notes` says what is unusual about some.

    Raises ValueError where the manifest itself cannot be used.
    """
    manifest = read_manifest(data, split=split, label_column=label_column)
    skipped = [list(pair) for pair in manifest.skipped]
    recordings = manifest.recordings
    notes: list[list[str]] = []
    if decode:
        decoded = list(zip(recordings, _decode(manifest, progress), strict=True))
        skipped += [[manifest.name(r), fault] for r, (fault, _) in decoded if fault]
        notes += [[manifest.name(r), note] for r, (_, note) in decoded if note]
        recordings = tuple(r for r, (fault, _) in decoded if not fault)
    return {
        "recordings": len(recordings),
        "minutes": round(sum(r.seconds for r in recordings) / 60, 2),
        "captions": sum(r.caption is not None for r in recordings),
        "labels": len({r.label for r in recordings if r.label is not None}),
        "splits": dict(Counter(r.split for r in recordings if r.split is not None)),
        "skipped": skipped,
        "notes": notes,
    }


def _decode(manifest: Manifest, progress: Progress | None) -> list[tuple[str, str]]:
    """For each recording: why it cannot be decoded, and a note about it; "" if there is none."""

    def look(number: int) -> tuple[str, str]:
        recording = manifest.recordings[number]
        try:
            channels, rate = read_channels(
                recording.file, start=recording.start, seconds=recording.seconds
            )
        except ValueError as error:
            return str(error), ""
        seconds = len(channels) / rate
        if seconds < recording.seconds - _LOST_SECONDS:
            lost = f"damaged: only {seconds:.1f} s of {recording.seconds:.1f} s can be decoded"
            return "", lost
        cancelled = "its channels cancel each other: the loudest one is used"
        return "", cancelled if channels_cancel(channels) else ""

    found: list[tuple[str, str]] = []
    total = len(manifest.recordings)
    for result in prefetch(look, range(total), _THREADS, 4 * _THREADS):
        found.append(result)
        if progress is not None:
            progress(len(found), total)
    return found
