"""The stimuli of a listening test: sounds of several systems for the same prompts, at equal
loudness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from soundcrafter.audio import Wave
from soundcrafter.evaluate.sound_files import find_readable
from soundcrafter.loudness import loudness
from soundcrafter.reports.evaluations import REPORT, read_sounds

GENERATED = "generated"  # folder of the sounds of an evaluation
TARGET = -23.0  # LUFS, the level of EBU R 128
PEAK = 0.9  # headroom: lossy coding may raise a peak


@dataclass(frozen=True)
class Stimulus:
    """One system's sound for a prompt."""

    system: str
    prompt: str  # "" if it is not known
    file: Path


@dataclass(frozen=True)
class _Found:
    prompt: str
    seed: int
    stem: str  # of the file: folders of sounds are matched by it
    file: Path


def match_sounds(folders: Mapping[str, Path]) -> list[dict[str, Stimulus]]:
    """Return the sounds that all systems have: system -> stimulus for each prompt, in the order of
    the first system.

    A folder belongs to an evaluation, whose report.json lists the prompt and seed of each sound, or
    just contains sounds. Sounds are matched by prompt and seed if all folders are evaluations, and
    otherwise by file name without suffix, below the folder (for an evaluation: below generated/).
    Of several matches the first counts. Raises ValueError if a folder has no sounds, for a
    malformed report, and if the folders have no sound in common.
    """
    reported = {name: (folder / REPORT).is_file() for name, folder in folders.items()}
    by_prompt = all(reported.values())
    tables: dict[str, dict[tuple[str, ...], _Found]] = {}
    for name, folder in folders.items():
        table = tables[name] = {}
        for sound in _of_report(folder) if reported[name] else _of_folder(folder):
            match = (sound.prompt, str(sound.seed)) if by_prompt else (sound.stem,)
            table.setdefault(match, sound)
    first = next(iter(tables.values()))
    shared = [match for match in first if all(match in table for table in tables.values())]
    if not shared:
        kind = "prompt and seed" if by_prompt else "file name"
        examples = "; ".join(
            f"{name}: {', '.join(map(repr, next(iter(table), ())))}"
            for name, table in tables.items()
        )
        raise ValueError(
            f"{', '.join(map(str, folders.values()))}: no {kind} in common; the first of each: "
            f"{examples}"
        )
    return [_stimuli({name: table[match] for name, table in tables.items()}) for match in shared]


def _stimuli(sounds: Mapping[str, _Found]) -> dict[str, Stimulus]:
    """Stimuli with the text of the sound that has one; sounds in a plain folder have none."""
    prompt = next((sound.prompt for sound in sounds.values() if sound.prompt), "")
    return {name: Stimulus(name, prompt, sound.file) for name, sound in sounds.items()}


def _of_report(folder: Path) -> list[_Found]:
    found = []
    for sound in read_sounds(folder):
        path = PurePosixPath(sound["file"])
        if not path.is_relative_to(GENERATED):
            raise ValueError(f"{folder / REPORT}: {path} is not below {GENERATED}/")
        stem = path.relative_to(GENERATED).with_suffix("").as_posix()
        found.append(_Found(sound["prompt"], sound["seed"], stem, folder / path))
    return found


def _of_folder(folder: Path) -> list[_Found]:
    files = find_readable(folder).files
    return [_Found("", 0, stem, file) for stem, file in files.items()]


def equally_loud(waves: Sequence[Wave], sample_rate: int) -> list[Wave]:
    """Scale waves [N] to equal loudness: TARGET, or less if a peak would exceed PEAK.

    Silence stays silent.
    """
    levels = [loudness(wave, sample_rate) for wave in waves]
    peaks = [float(np.abs(wave).max(initial=0.0)) for wave in waves]
    highest = [
        level + 20 * np.log10(PEAK / peak)
        for level, peak in zip(levels, peaks, strict=True)
        if np.isfinite(level)
    ]
    target = min([TARGET, *highest])
    return [
        (wave * 10 ** ((target - level) / 20)).astype(np.float32) if np.isfinite(level) else wave
        for wave, level in zip(waves, levels, strict=True)
    ]
