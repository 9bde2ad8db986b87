"""The sound files of a comparison: those of a folder, or of one split of a manifest."""

import dataclasses
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from soundcrafter.audio import audio_info, list_audio, read_audio
from soundcrafter.data.manifest import read_manifest


@dataclass(frozen=True)
class SoundFiles:
    """Sound files by name: their path below the folder, without suffix."""

    files: Mapping[str, Path]
    sample_rate: int | None  # Hz; None: the files have different ones
    skipped: Mapping[str, str]  # file -> reason

    def without(self, unreadable: Mapping[Path, str]) -> "SoundFiles":
        """Return the other files; unreadable ones (file -> reason) are added to `skipped`.

        Raises ValueError if no file is left.
        """
        if not unreadable:
            return self
        files = {name: file for name, file in self.files.items() if file not in unreadable}
        if not files:
            reason = next(iter(unreadable.values()))
            raise ValueError(f"no readable sound ({len(unreadable)} skipped; the first: {reason})")
        skipped = dict(self.skipped)
        for name, file in self.files.items():
            if file in unreadable:
                skipped[f"{name}{file.suffix}"] = unreadable[file]
        return dataclasses.replace(self, files=files, skipped=dict(sorted(skipped.items())))


def find_sounds(folder: Path, *, mixed_rates: bool = False) -> SoundFiles:
    """Return the sounds below a folder. Files with unreadable headers are skipped and counted.

    Raises ValueError for a missing folder, a folder without readable sounds, and for mixed sample
    rates unless they are allowed, because resampling alone changes distances.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    rates: dict[int, str] = {}
    skipped: dict[str, str] = {}
    for file in list_audio(folder):
        name = file.relative_to(folder)
        try:
            rate = audio_info(file).sample_rate
        except ValueError as error:
            skipped[name.as_posix()] = str(error)
            continue
        files[name.with_suffix("").as_posix()] = file
        rates.setdefault(rate, name.as_posix())
    if not files:
        raise ValueError(f"{folder}: no readable sound ({len(skipped)} skipped)")
    if len(rates) > 1 and not mixed_rates:
        found = ", ".join(f"{rate} Hz ({name})" for rate, name in sorted(rates.items()))
        raise ValueError(f"{folder}: mixed sample rates: {found}; allow them with --mixed-rates")
    return SoundFiles(files, _only(rates), skipped)


def find_readable(folder: Path) -> SoundFiles:
    """Return the sounds below a folder, at any sample rate, that can be decoded completely.

    Raises ValueError for a missing folder and a folder without readable sounds.
    """
    found = find_sounds(folder, mixed_rates=True)
    unreadable: dict[Path, str] = {}
    for file in found.files.values():
        try:
            read_audio(file, audio_info(file).sample_rate)
        except ValueError as error:
            unreadable[file] = str(error)
    return found.without(unreadable)


def find_recordings(data: Path, split: str) -> SoundFiles:
    """Return the recordings of one split of a manifest, at any sample rate.

    Raises ValueError as `read_manifest`, and for recordings that are part of a longer file.
    """
    manifest = read_manifest(data, split=split)
    part = next((manifest.name(r) for r in manifest.recordings if r.start > 0), None)
    if part is not None:
        raise ValueError(f"{data}: {part} is part of a longer file; cut it out first")
    files = {manifest.stem(r): r.file for r in manifest.recordings}
    rates = set()
    for file in files.values():
        with suppress(ValueError):  # unreadable files are skipped when they are embedded
            rates.add(audio_info(file).sample_rate)
    return SoundFiles(files, _only(rates), dict(manifest.skipped))


def _only(rates: Collection[int]) -> int | None:
    return next(iter(rates)) if len(rates) == 1 else None
