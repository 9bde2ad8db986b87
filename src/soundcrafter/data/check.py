"""A look at a manifest before training: what is there, what cannot be read."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soundcrafter.audio import read_audio
from soundcrafter.data.dataset import prefetch
from soundcrafter.data.manifest import Manifest, read_manifest

_RATE = 16_000  # any rate would do: the samples are thrown away
_THREADS = 2


def check(
    data: Path,
    split: str | None = None,
    label_column: str = "label",
    *,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Counts of a manifest, ready for JSON; with `decode` every file is read to its end.

    Raises ValueError where the manifest itself cannot be used.
    """
    manifest = read_manifest(data, split=split, label_column=label_column)
    skipped = [list(pair) for pair in manifest.skipped]
    if decode:
        skipped += _undecodable(manifest, progress)
    recordings = manifest.recordings
    return {
        "recordings": len(recordings),
        "minutes": round(sum(r.seconds for r in recordings) / 60, 2),
        "captions": sum(r.caption is not None for r in recordings),
        "labels": len({r.label for r in recordings if r.label is not None}),
        "splits": dict(Counter(r.split for r in recordings if r.split is not None)),
        "skipped": skipped,
    }


def _undecodable(
    manifest: Manifest, progress: Callable[[int, int], None] | None
) -> list[list[str]]:
    def fault(number: int) -> str | None:
        recording = manifest.recordings[number]
        try:
            read_audio(recording.file, _RATE, start=recording.start, seconds=recording.seconds)
        except ValueError as error:
            return str(error)
        return None

    faults, total = [], len(manifest.recordings)
    for number, reason in enumerate(prefetch(fault, range(total), _THREADS, 4 * _THREADS)):
        if reason is not None:
            faults.append([manifest.name(manifest.recordings[number]), reason])
        if progress is not None:
            progress(number + 1, total)
    return faults
