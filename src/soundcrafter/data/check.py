"""Checking a manifest before training: its counts, and the files that cannot be read."""

from collections import Counter
from os import PathLike
from typing import Any

from soundcrafter.audio import channels_cancel, read_channels
from soundcrafter.data.manifest import Manifest, read_manifest
from soundcrafter.data.prefetch import prefetch
from soundcrafter.progress import Progress

_THREADS = 2
_LOST_SECONDS = 0.1  # an encoder's padding is shorter


def check_data(
    data: str | PathLike[str],
    split: str | None = None,
    label_column: str = "label",
    *,
    decode: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return counts of a manifest, serialisable as JSON.

    With `decode` every file is decoded completely, and `notes` lists files with unusual channels.
    Raises ValueError as `read_manifest`.
    """
    manifest = read_manifest(data, split=split, label_column=label_column)
    skipped = [list(pair) for pair in manifest.skipped]
    recordings = manifest.recordings
    notes: list[list[str]] = []
    if decode:
        decoded = list(zip(recordings, _decode(manifest, progress), strict=True))
        skipped += [[manifest.name(r), reason] for r, (reason, _) in decoded if reason]
        notes += [[manifest.name(r), note] for r, (_, note) in decoded if note]
        recordings = tuple(r for r, (reason, _) in decoded if not reason)
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
    """For each recording: why it cannot be decoded, and a note about it; each may be ""."""

    def decode(number: int) -> tuple[str, str]:
        recording = manifest.recordings[number]
        try:
            channels, rate = read_channels(
                recording.sound, start=recording.start, seconds=recording.seconds
            )
        except ValueError as error:
            return str(error), ""
        seconds = len(channels) / rate
        if seconds < recording.seconds - _LOST_SECONDS:
            lost = f"damaged: only {seconds:.1f} s of {recording.seconds:.1f} s can be decoded"
            return "", lost
        cancelled = "its channels cancel out; the loudest one is used"
        return "", cancelled if channels_cancel(channels) else ""

    found: list[tuple[str, str]] = []
    total = len(manifest.recordings)
    for result in prefetch(decode, range(total), _THREADS, 4 * _THREADS):
        found.append(result)
        if progress is not None:
            progress(len(found), total)
    return found
