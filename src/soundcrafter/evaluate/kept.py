"""Sounds that were judged, kept as wav files in a folder of each family, for an outside judge."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soundcrafter.audio import Wave, write_audio
from soundcrafter.evaluate.generate import Batch, claim_folder, slug, sound_files
from soundcrafter.evaluate.ledger import Ledger
from soundcrafter.files import make_folder, replacing
from soundcrafter.pipeline import SoundCrafter

IDENTITY = "kept.jsonl"  # says what the sounds of a folder are made of


class KeptSounds:
    """Sounds below a folder: <link>/<family>/<name>.wav. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        """Raises ValueError where the folder holds sounds of another identity."""
        self._folder = folder
        if folder is not None:
            Ledger(folder / IDENTITY, identity)

    def has(self, link: str, family: str, name: str) -> bool:
        """Whether there is nothing left to save: the sound is there, or none is wanted."""
        file = self._file(link, family, name)
        return file is None or file.is_file()

    def save(self, link: str, family: str, name: str, wave: Wave, sample_rate: int) -> None:
        """Write wave [N] as 16-bit PCM, whole or not at all."""
        file = self._file(link, family, name)
        if file is not None:
            make_folder(file.parent)
            write_audio(file, wave, sample_rate)

    def _file(self, link: str, family: str, name: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / link / family / f"{file_stem(name)}.wav"


def file_stem(name: str) -> str:
    """A file name for any text: its letters and digits, and a hash that tells texts apart."""
    return f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def claim_families(
    model: SoundCrafter, batches: Sequence[Batch], folder: Path, threads: int
) -> None:
    """Check, before any sound is made, that `keep_by_family` can put these into `folder`, and
    write into it what they are made of.

    Raises ValueError for prompts without a family, for a family that cannot be a folder's name,
    and where the folder holds sounds of something else.
    """
    families = {planned.prompt.family for batch in batches for planned in batch}
    if "" in families:
        raise ValueError(
            "--keep: these prompts have no family to be sorted by; allowed: --prompts families, "
            "free, or a csv with a family in each row"
        )
    odd = sorted(name for name in families if name in (".", "..") or set(name) & set("/\\\0"))
    if odd:
        raise ValueError(f"--keep: the family {odd[0]!r} cannot be the name of a folder")
    claim_folder(model, batches, folder, threads)


def keep_by_family(batches: Sequence[Batch], generated: Path, folder: Path) -> None:
    """Copy the sounds of `generated` to <family>/<the same name>.wav below `folder`."""
    for batch in batches:
        for planned, file in zip(batch, sound_files(batch, generated), strict=True):
            copy = folder / planned.prompt.family / f"{planned.stem}.wav"
            make_folder(copy.parent)
            with replacing(copy) as temporary:
                shutil.copyfile(file, temporary)
