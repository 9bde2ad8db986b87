"""The chain: how recognisable sounds are after each part of the model.

A tagger classifies real recordings, the same after vocoder(mel), after Griffin-Lim(mel) and after
vocoder(vae(mel)), and sounds generated for the frozen prompts. The accuracy of each link shows
where the model loses information.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import audio_info, fit_length, normalize_peak, read_audio, resample
from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.evaluate.chain_report import card_figures, chain_markdown, summarise
from soundcrafter.evaluate.codec import Codec, resynthesise
from soundcrafter.evaluate.generate import (
    PlannedBatch,
    PlannedSound,
    check_seeds,
    generate_batch,
    plan_batches,
)
from soundcrafter.evaluate.kept import KeptSounds
from soundcrafter.evaluate.metrics import (
    log_mel_distance,
    log_spectral_distance,
    stft_distance,
)
from soundcrafter.evaluate.prompt_sets import family_prompts
from soundcrafter.evaluate.result_log import ResultLog
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.files import write_json, write_text
from soundcrafter.mel_bands import MelConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress, step_counter
from soundcrafter.sound import Sound
from soundcrafter.version import __version__

RESYNTHESES = ("vocoder", "griffin_lim", "vae_vocoder")
MAX_SECONDS = 10.24  # of a recording
LEVEL = 0.5  # peak of a recording, as in training
MIN_SAMPLES = 2048  # that the spectral distances need
LOW_BAND, HIGH_BAND = (0, 8000), (8000, 16_000)  # Hz, of the log-spectral distances


def evaluate_chain(
    model: SoundCrafter | Codec,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    where: Mapping[str, str] | None = None,
    seeds: int = 2,
    seed: int = 0,
    tagger: TaggerEmbedder | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every link of a model and return the report.

    Writes chain.json, chain.md and figures.json (for a model card) into `out`. A Codec generates
    nothing, so that its last link has N 0. `data` is a manifest or folder whose column family
    contains the tagger's classes; `where`: column -> the value that rows must have. `keep`: a
    folder for a copy of every measured sound at the model's rate, <link>/<family>/<name>.wav. An
    interrupted call is resumed by the same call; sounds missing in `keep` are generated again.
    Raises ValueError if the data has no recording of the scored families, and if `out` or `keep`
    contains results of another model or other settings.
    """
    check_seeds(seeds, seed)
    tagger = tagger or TaggerEmbedder.bundled()
    scored = tagger.classes[:-1]
    manifest = read_manifest(data, split=split, label_column="family", where=where)
    recordings = [r for r in manifest.recordings if r.label in scored]
    if not recordings:
        raise ValueError(f"{data}: no recording of the tagger's {len(scored)} families in {split}")
    identity = {
        "model": dict(model.training_ids),
        "sampling": vars(model.sampling) if isinstance(model, SoundCrafter) else None,
        "tagger": tagger.sha256,
        "split": split,
        "where": dict(where or {}),
        "seeds": seeds,
        "seed": seed,
    }
    log = ResultLog(out / "chain.jsonl", identity)
    results = _Results(log, KeptSounds(keep, identity), tagger, model.sample_rate)
    generates = isinstance(model, SoundCrafter)
    prompts = [p for p in family_prompts() if generates and p.family in scored]
    report_progress = step_counter(progress, len(recordings) + len(prompts) * seeds)
    for recording in recordings:
        _measure_recording(model, manifest, recording, results)
        report_progress(1)
    if isinstance(model, SoundCrafter):
        for batch in plan_batches(prompts, seeds, seed):
            _measure_generated(model, batch, results)
            report_progress(len(batch))
    report = summarise(list(log.rows.values()), scored)
    report = {"version": __version__, **identity, **report}
    write_json(out / "chain.json", report)
    write_text(out / "chain.md", chain_markdown(report))
    write_json(out / "figures.json", card_figures(report))
    return report


@dataclass(frozen=True)
class _Results:
    """Classifies sounds, logs the results, and keeps the sounds."""

    log: ResultLog
    kept: KeptSounds
    tagger: TaggerEmbedder
    sample_rate: int  # Hz, of every sound

    def has(self, link: str, family: str, name: str) -> bool:
        return f"{link}/{name}" in self.log and self.kept.has(link, family, name)

    def add(self, link: str, family: str, name: str, wave: np.ndarray, **figures: float) -> None:
        """Classify wave [N]. It is saved before its row, so that every row has its sound."""
        self.kept.save(link, family, name, wave, self.sample_rate)
        probabilities = self.tagger(wave, self.sample_rate).probabilities
        assert probabilities is not None
        predicted = self.tagger.classes[int(probabilities.argmax())]
        row = {"link": link, "family": family, "heard": predicted, **figures}
        self.log.add(f"{link}/{name}", row)


def _measure_recording(
    model: SoundCrafter | Codec, manifest: Manifest, recording: Recording, results: _Results
) -> None:
    """Add the results of one recording, as it is and after each resynthesis."""
    family = recording.label
    assert family is not None
    name = manifest.name(recording) + (f"@{recording.start:g}" if recording.start else "")
    if all(results.has(link, family, name) for link in ("real", *RESYNTHESES)):
        return
    seconds = min(recording.seconds, MAX_SECONDS)
    try:
        wave = read_audio(
            recording.sound, model.sample_rate, start=recording.start, seconds=seconds
        )
        rates = audio_info(recording.sound).sample_rate, recording.sample_rate
    except ValueError as error:
        row = {"link": "skipped", "reason": str(error)}
        results.log.add(f"skipped/{name}", row)
        return
    wave = normalize_peak(wave, LEVEL)
    results.add("real", family, name, wave)
    source_rate = min(rate for rate in rates if rate > 0)  # 0: the table states none
    mel = results.tagger.network.config.mel
    for link, made in resynthesise(model, wave).items():
        figures = distances(wave, made, model.sample_rate, source_rate, mel)
        results.add(link, family, name, made, **figures)


def distances(
    real: np.ndarray, made: np.ndarray, sample_rate: int, source_rate: float, mel: MelConfig
) -> dict[str, float]:
    """Name -> distance of a resynthesis [N] from its recording [N], both at `sample_rate` Hz.

    `log_mel` is measured at the rate of `mel`, so that models of different rates are comparable.
    The log-spectral distances are measured above a `sample_rate` of 16 kHz, and in the upper band
    only where the `source_rate` of the recording in Hz includes it.
    """
    length = max(len(real), MIN_SAMPLES)
    pair = fit_length(real, length), fit_length(made, length)
    resampled = [resample(wave, sample_rate, mel.sample_rate) for wave in pair]
    found = {
        "stft": stft_distance(*pair),
        "log_mel": log_mel_distance(resampled[0], resampled[1], mel),
    }
    if sample_rate > LOW_BAND[1] * 2 and real.any():
        found["lsd_low"] = log_spectral_distance(*pair, sample_rate, *LOW_BAND)
        if source_rate >= HIGH_BAND[1] * 2:
            found["lsd_high"] = log_spectral_distance(*pair, sample_rate, *HIGH_BAND)
    return found


def _measure_generated(model: SoundCrafter, batch: PlannedBatch, results: _Results) -> None:
    """Add the results of sounds generated for the frozen prompts."""

    def name(planned: PlannedSound) -> str:
        return f"{planned.prompt.text}/{planned.seed}"

    def exists(planned: PlannedSound) -> bool:
        return results.has("generated", planned.prompt.family, name(planned))

    def save(planned: PlannedSound, sound: Sound) -> None:
        results.add("generated", planned.prompt.family, name(planned), sound.wave)

    generate_batch(model, batch, exists=exists, save=save)
