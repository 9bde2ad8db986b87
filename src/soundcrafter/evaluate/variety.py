"""Variety: how much generated sounds differ from each other and from the training recordings."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcrafter.audio import fit_length, normalize_peak, read_audio
from soundcrafter.data.manifest import Recording, read_manifest
from soundcrafter.mel import LogMel
from soundcrafter.models.clap_audio import ClapAudio

SECONDS = 5.12  # of a sound that are compared; a shorter one is padded with silence
POOL = 4  # mel frames averaged, so that a copy shifted by a frame or two stays close
PERCENTILE = 1.0  # of the distances from test recordings to the nearest training recording


@dataclass(frozen=True)
class Fingerprints:
    """The features that sounds are compared by."""

    clap: np.ndarray  # [N, E], unit-norm CLAP audio embeddings
    mel: np.ndarray  # [N, D], log-mels of SECONDS, POOL frames averaged


@torch.inference_mode()
def fingerprints(audio: ClapAudio, waves: Iterable[np.ndarray]) -> Fingerprints:
    """Waves [N_i] at the tower's rate -> fingerprints; each wave is normalised to a peak of 0.5."""
    config = audio.config.mel
    log_mel, length = LogMel(config), round(SECONDS * config.sample_rate)
    clap, mel = [], []
    for wave in waves:
        cut = fit_length(normalize_peak(wave[:length]), length)
        clap.append(audio.embed(cut, config.sample_rate)[0].cpu().numpy())
        frames = log_mel(torch.from_numpy(cut)[None])[0, 0]
        frames = frames[: len(frames) // POOL * POOL]
        mel.append(frames.unflatten(0, (-1, POOL)).mean(1).flatten().numpy())
    return Fingerprints(np.stack(clap), np.stack(mel))


def variety(clap: np.ndarray, families: Sequence[str]) -> dict[str, float]:
    """Family -> mean cosine distance (1 - cosine) of its pairs of sounds.

    clap [N, E] unit-norm rows, families [N]. Families with one sound have no pair and are left out.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, family in enumerate(families):
        places[family].append(place)
    found = {}
    for family, rows in places.items():
        if len(rows) > 1:
            cosines = clap[rows] @ clap[rows].T
            found[family] = float(1 - cosines[np.triu_indices(len(rows), 1)].mean())
    return found


def copies(made: Fingerprints, test: Fingerprints, train: Fingerprints) -> dict[str, Any]:
    """How many of the generated sounds `made` are copies of training recordings.

    A copy is closer to a training recording than nearly all test recordings are to theirs: below
    the PERCENTILE-th percentile of the test recordings' nearest distances, both in log-mel (root
    mean square, nats) and in CLAP (1 - cosine).
    """
    nearest = {name: _nearest(sounds, train) for name, sounds in (("made", made), ("test", test))}
    limits = {kind: float(np.percentile(nearest["test"][kind], PERCENTILE)) for kind in _KINDS}
    below = {kind: nearest["made"][kind] < limits[kind] for kind in _KINDS}
    return {
        "share": float(np.mean(below["clap"] & below["mel"])),
        "n": len(made.clap),
        "limits": limits,
        "below": {kind: float(below[kind].mean()) for kind in _KINDS},
        "median_nearest": {
            name: {kind: float(np.median(found[kind])) for kind in _KINDS}
            for name, found in nearest.items()
        },
    }


def variety_report(
    audio: ClapAudio, made: Sequence[Path], families: Sequence[str], data: Path, split: str
) -> dict[str, Any]:
    """Return the variety and the copies of generated sounds, files [N] of `families` [N].

    `data` is a manifest with the column `family` and the splits `split` and train. Variety is
    measured for the families that have two generated and two real sounds. Figures without
    recordings in the manifest are left out.
    """
    rate = audio.config.mel.sample_rate
    recordings = [r for r in _recordings(data, split) if r.label in set(families)]
    training = _recordings(data, "train") if split != "train" else ()
    if not recordings:
        return {}
    ours = fingerprints(audio, (read_audio(file, rate) for file in made))
    test = fingerprints(audio, (_wave(r, rate) for r in recordings))
    generated = variety(ours.clap, families)
    real = variety(test.clap, [r.label or "" for r in recordings])
    both = sorted(set(generated) & set(real))
    report: dict[str, Any] = {}
    if both:
        means = [float(np.mean([found[family] for family in both])) for found in (generated, real)]
        report["variety"] = {
            "generated": means[0],
            "real": means[1],
            "of_real": means[0] / means[1],
            "families": {family: [generated[family], real[family]] for family in both},
        }
    if training:
        train = fingerprints(audio, (_wave(r, rate) for r in training))
        report["copies"] = copies(ours, test, train)
    return report


def _recordings(data: Path, split: str) -> Sequence[Recording]:
    """The recordings of a split with their families; none if the manifest lacks them."""
    try:
        return read_manifest(data, split=split, label_column="family").recordings
    except ValueError:
        return ()


def _wave(recording: Recording, rate: int) -> np.ndarray:
    seconds = min(recording.seconds, SECONDS)
    return read_audio(recording.sound, rate, start=recording.start, seconds=seconds)


_KINDS = ("clap", "mel")


def _nearest(sounds: Fingerprints, train: Fingerprints) -> dict[str, np.ndarray]:
    """The distances [N] of each sound to the nearest one of train, by kind."""
    clap = 1 - (sounds.clap @ train.clap.T).max(1)
    mel = torch.cdist(torch.from_numpy(sounds.mel), torch.from_numpy(train.mel)).amin(1)
    return {"clap": clap, "mel": mel.numpy() / sounds.mel.shape[1] ** 0.5}
