"""The stimuli of a listening test: sounds of several systems for the same prompts, at equal
loudness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from soundcrafter.audio import Wave, fit_length
from soundcrafter.evaluate.sound_files import find_readable
from soundcrafter.reports.evaluations import REPORT, read_sounds

GENERATED = "generated"  # folder of the sounds of an evaluation
TARGET = -23.0  # LUFS, the level of EBU R 128
PEAK = 0.9  # headroom: lossy coding may raise a peak

# ITU-R BS.1770-4, tables 1 and 2: (b0, b1, b2), (1, a1, a2) at 48 kHz
_SHELF = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)
_HIGHPASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_BLOCK, _STEP = 0.4, 0.1  # seconds
_ABSOLUTE, _RELATIVE = -70.0, -10.0  # LUFS and LU, of the gate


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
        raise ValueError(f"{', '.join(map(str, folders.values()))}: no {kind} in common")
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


def loudness(wave: Wave, sample_rate: int) -> float:
    """Return the integrated loudness of wave [N] in LUFS (ITU-R BS.1770-4, one channel).

    It is -inf for silence. The filters of the standard are applied in the frequency domain, so that
    any sample rate is possible. A wave shorter than a block of 0.4 s is padded with silence.
    """
    block, step = round(_BLOCK * sample_rate), round(_STEP * sample_rate)
    weighted = _k_weighted(fit_length(wave, max(len(wave), block)), sample_rate)
    energy = np.concatenate([[0.0], np.cumsum(weighted**2)])
    starts = np.arange(0, len(weighted) - block + 1, step)
    powers = (energy[starts + block] - energy[starts]) / block
    powers = powers[powers > _power(_ABSOLUTE)]
    if not len(powers):
        return -np.inf
    powers = powers[powers > powers.mean() * 10 ** (_RELATIVE / 10)]
    return float(-0.691 + 10 * np.log10(powers.mean()))


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


def _k_weighted(wave: Wave, sample_rate: int) -> np.ndarray:
    """wave [N] through the two filters, by a transform of twice the length to avoid wrapping."""
    size = 2 * len(wave)
    frequencies = np.minimum(np.fft.rfftfreq(size, 1 / sample_rate), 24_000)
    z = np.exp(-2j * np.pi * frequencies / 48_000)
    response = np.ones_like(z)
    for above, below in (_SHELF, _HIGHPASS):
        response *= np.polyval(above[::-1], z) / np.polyval(below[::-1], z)
    return np.fft.irfft(np.fft.rfft(wave.astype(np.float64), size) * response, size)[: len(wave)]


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
