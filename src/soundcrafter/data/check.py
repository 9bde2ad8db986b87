"""A look at a manifest before training: what is there, what cannot be read."""

from collections import Counter
from pathlib import Path
from typing import Any

from soundcrafter.audio import read_audio
from soundcrafter.data.dataset import prefetch
from soundcrafter.data.manifest import Manifest, read_manifest
from soundcrafter.progress import Progress

_RATE = 16_000  # any rate would do: the samples are thrown away
_THREADS = 2


def check(
    data: Path,
    split: str | None = None,
    label_column: str = "label",
    *,
    decode: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Counts of a manifest, ready for JSON; with `decode` every file is read to its end.

    Raises ValueError where the manifest itself cannot be used.
    """
    manifest = read_manifest(data, split=split, label_column=label_column)
    skipped = [list(pair) for pair in manifest.skipped]
    recordings = manifest.recordings
    if decode:
        faults = _faults(manifest, progress)
        pairs = list(zip(recordings, faults, strict=True))
        skipped += [[manifest.name(r), fault] for r, fault in pairs if fault is not None]
        recordings = tuple(r for r, fault in pairs if fault is None)
    return {
        "recordings": len(recordings),
        "minutes": round(sum(r.seconds for r in recordings) / 60, 2),
        "captions": sum(r.caption is not None for r in recordings),
        "labels": len({r.label for r in recordings if r.label is not None}),
        "splits": dict(Counter(r.split for r in recordings if r.split is not None)),
        "skipped": skipped,
    }


def _faults(manifest: Manifest, progress: Progress | None) -> list[str | None]:
    """Why each recording cannot be decoded; None where it can."""

    def fault(number: int) -> str | None:
        recording = manifest.recordings[number]
        try:
            read_audio(recording.file, _RATE, start=recording.start, seconds=recording.seconds)
        except ValueError as error:
            return str(error)
        return None

    faults: list[str | None] = []
    total = len(manifest.recordings)
    for reason in prefetch(fault, range(total), _THREADS, 4 * _THREADS):
        faults.append(reason)
        if progress is not None:
            progress(len(faults), total)
    return faults
