"""Copies of the measured sounds as wav files in one folder per family, for an external judge."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soundcrafter.audio import Wave, write_audio
from soundcrafter.evaluate.generate import PlannedBatch, claim_folder, slug, sound_file
from soundcrafter.evaluate.result_log import ResultLog
from soundcrafter.files import make_folder, replacing
from soundcrafter.pipeline import SoundCrafter

IDENTITY = "kept.jsonl"  # records how the sounds of a folder were made


class KeptSounds:
    """Saves sounds to <link>/<family>/<name>.wav below a folder, or nowhere without a folder."""

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        """Raises ValueError if the folder contains sounds of another identity."""
        self._folder = folder
        if folder is not None:
            ResultLog(folder / IDENTITY, identity)

    def has(self, link: str, family: str, name: str) -> bool:
        """Whether the sound need not be saved: it exists, or there is no folder."""
        file = self._file(link, family, name)
        return file is None or file.is_file()

    def save(self, link: str, family: str, name: str, wave: Wave, sample_rate: int) -> None:
        """Write wave [N] as 16-bit PCM, completely or not at all."""
        file = self._file(link, family, name)
        if file is not None:
            make_folder(file.parent)
            write_audio(file, wave, sample_rate)

    def _file(self, link: str, family: str, name: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / link / family / f"{_file_stem(name)}.wav"


def _file_stem(name: str) -> str:
    """A file name for any text: its letters and digits, and a hash that makes it unique."""
    return f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def claim_families(
    model: SoundCrafter, batches: Sequence[PlannedBatch], folder: Path, threads: int
) -> None:
    """Check, before any sound is generated, that `keep_by_family` can copy the sounds to `folder`,
    and record in it how they are generated.

    Raises ValueError for prompts without a family, for a family that cannot be the name of a
    folder, and if the folder contains sounds that were generated in another way.
    """
    families = {planned.prompt.family for batch in batches for planned in batch}
    if "" in families:
        raise ValueError(
            "--keep: needs prompts with a family, which is the name of the folder of their sounds"
        )
    odd = sorted(name for name in families if name in (".", "..") or set(name) & set("/\\\0"))
    if odd:
        raise ValueError(f"--keep: the family {odd[0]!r} cannot be the name of a folder")
    claim_folder(model, batches, folder, threads)


def keep_by_family(batches: Sequence[PlannedBatch], generated: Path, folder: Path) -> None:
    """Copy the sounds in `generated` to <family>/<name>.wav below `folder`."""
    for batch in batches:
        for planned in batch:
            copy = sound_file(planned, folder / planned.prompt.family)
            make_folder(copy.parent)
            with replacing(copy) as temporary:
                shutil.copyfile(sound_file(planned, generated), temporary)
