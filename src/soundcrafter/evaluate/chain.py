"""The chain, link by link: how recognisable sounds are after each part of the model.

Real recordings, the vocoder on their mel, Griffin-Lim on the same mel, VAE and vocoder, and sounds
generated for the frozen wordings, all judged by the same tagger: what a link loses is seen where
it is lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import audio_info, fit_length, normalize_peak, read_audio, resample
from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.evaluate.codec import Codec, resynthesise
from soundcrafter.evaluate.kept import KeptSounds
from soundcrafter.evaluate.ledger import Ledger
from soundcrafter.evaluate.metrics import (
    log_mel_distance,
    log_spectral_distance,
    stft_distance,
    wilson_interval,
)
from soundcrafter.evaluate.prompts import Prompt, family_prompts
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.files import write_json, write_text
from soundcrafter.mel import MelConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.version import __version__

LINKS = ("real", "vocoder", "griffin_lim", "vae_vocoder", "generated")
RESYNTHESES = ("vocoder", "griffin_lim", "vae_vocoder")
MAX_SECONDS = 10.24  # of a recording
LEVEL = 0.5  # peak of a recording, as in training
GENERATED_AT_ONCE = 8
LEAST_SAMPLES = 2048  # what the spectral distances need
LOW_BAND, HIGH_BAND = (0, 8000), (8000, 16_000)  # Hz, of the log-spectral distances
DISTANCES = {
    "stft": "STFT",
    "log_mel": "log-mel",
    "lsd_low": "LSD to 8 kHz, dB",
    "lsd_high": "LSD 8 to 16 kHz, dB",
}

Row = Mapping[str, Any]


def evaluate_chain(
    model: SoundCrafter | Codec,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    where: Mapping[str, str] | None = None,
    seeds: int = 2,
    seed: int = 0,
    tagger: Tagger | None = None,
    label_column: str = "family",
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every link of a model; writes chain.json, chain.md and figures.json, which a model
    card takes, into `out` and returns the report. A Codec generates nothing: its last link has N 0.

    `data` is a manifest or folder whose `label_column` holds the tagger's classes; `where`: column
    -> value of its rows that are read. `keep`: a folder that gets every judged sound at the model's
    rate, <link>/<family>/<name>.wav. Called again after a kill it goes on where it was; what is
    missing in `keep` is made again. Raises ValueError where the data has no recording of the scored
    families and where `out` or `keep` holds results of another model or other settings.
    """
    if seeds < 1 or seed < 0:
        raise ValueError(f"seeds, seed: got {seeds}, {seed}; at least 1 and 0")
    tagger = tagger or Tagger.bundled()
    scored = tagger.classes[:-1]
    manifest = read_manifest(data, split=split, label_column=label_column, where=where)
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
    ledger = Ledger(out / "chain.jsonl", identity)
    results = _Results(ledger, KeptSounds(keep, identity), tagger, model.sample_rate)
    generates = isinstance(model, SoundCrafter)
    prompts = [p for p in family_prompts() if generates and p.family in scored]
    report_progress = counter(progress, len(recordings) + len(prompts) * seeds)
    for recording in recordings:
        _measure_recording(model, manifest, recording, results)
        report_progress(1)
    if isinstance(model, SoundCrafter):
        for step in _measure_generated(model, prompts, range(seed, seed + seeds), results):
            report_progress(step)
    report = summarise(list(ledger.rows.values()), scored)
    report = {"version": __version__, **identity, **report}
    write_json(out / "chain.json", report)
    write_text(out / "chain.md", chain_markdown(report))
    write_json(out / "figures.json", card_figures(report))
    return report


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """What counts steps up to `total`, however many at once, and reports them."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add


@dataclass(frozen=True)
class _Results:
    """What is known of the sounds, each by its link, family and name, and the sounds themselves."""

    ledger: Ledger
    kept: KeptSounds
    tagger: Tagger
    sample_rate: int  # Hz, of every sound

    def has(self, link: str, family: str, name: str) -> bool:
        return f"{link}/{name}" in self.ledger and self.kept.has(link, family, name)

    def add(self, link: str, family: str, name: str, wave: np.ndarray, **figures: float) -> None:
        """Judge wave [N]. It is kept before its row is written: a row has its sound."""
        self.kept.save(link, family, name, wave, self.sample_rate)
        probabilities = self.tagger(wave, self.sample_rate).probabilities
        assert probabilities is not None
        heard = self.tagger.classes[int(probabilities.argmax())]
        row = {"link": link, "family": family, "heard": heard, **figures}
        self.ledger.add(f"{link}/{name}", row)


def _measure_recording(
    model: SoundCrafter | Codec, manifest: Manifest, recording: Recording, results: _Results
) -> None:
    """Rows of one recording: as it is, and through each resynthesis."""
    family = recording.label
    assert family is not None
    name = manifest.name(recording) + (f"@{recording.start:g}" if recording.start else "")
    if all(results.has(link, family, name) for link in ("real", *RESYNTHESES)):
        return
    seconds = min(recording.seconds, MAX_SECONDS)
    try:
        wave = read_audio(recording.file, model.sample_rate, start=recording.start, seconds=seconds)
        rates = audio_info(recording.file).sample_rate, recording.sample_rate
    except ValueError as error:
        row = {"link": "skipped", "reason": str(error)}
        results.ledger.add(f"skipped/{name}", row)
        return
    wave = normalize_peak(wave, LEVEL)
    results.add("real", family, name, wave)
    source_rate = min(rate for rate in rates if rate > 0)  # a table may state none
    mel = results.tagger.network.config.mel
    for link, made in resynthesise(model, wave).items():
        figures = distances(wave, made, model.sample_rate, source_rate, mel)
        results.add(link, family, name, made, **figures)


def distances(
    real: np.ndarray, made: np.ndarray, sample_rate: int, source_rate: float, mel: MelConfig
) -> dict[str, float]:
    """Name -> distance of a resynthesis [N] from its recording [N], both at `sample_rate` Hz.

    `log_mel` is of both at the rate of `mel`, so that models of different rates compare. The
    log-spectral distances are of models above 16 kHz, and the upper band's is of recordings that
    were made at a `source_rate` in Hz that can hold it.
    """
    length = max(len(real), LEAST_SAMPLES)
    pair = fit_length(real, length), fit_length(made, length)
    heard = [resample(wave, sample_rate, mel.sample_rate) for wave in pair]
    found = {
        "stft": stft_distance(*pair),
        "log_mel": log_mel_distance(heard[0], heard[1], mel),
    }
    if sample_rate > LOW_BAND[1] * 2 and real.any():
        found["lsd_low"] = log_spectral_distance(*pair, sample_rate, *LOW_BAND)
        if source_rate >= HIGH_BAND[1] * 2:
            found["lsd_high"] = log_spectral_distance(*pair, sample_rate, *HIGH_BAND)
    return found


def _measure_generated(
    model: SoundCrafter, prompts: Sequence[Prompt], seeds: range, results: _Results
) -> Iterator[int]:
    """Rows of the sounds generated for the frozen wordings; yields how many were looked at."""
    for seed in seeds:
        for begin in range(0, len(prompts), GENERATED_AT_ONCE):
            batch = prompts[begin : begin + GENERATED_AT_ONCE]
            pairs = [(prompt, f"{prompt.text}/{seed}") for prompt in batch]
            # the whole batch or nothing of it: batches of other sizes differ in the last bits
            if not all(results.has("generated", p.family, name) for p, name in pairs):
                texts = [prompt.text for prompt in batch]
                sounds = model.generate(texts, seed=seed, batch_size=GENERATED_AT_ONCE)
                for (prompt, name), sound in zip(pairs, sounds, strict=True):
                    results.add("generated", prompt.family, name, sound.wave)
            yield len(batch)


def summarise(rows: Sequence[Row], families: Sequence[str]) -> dict[str, Any]:
    """Pooled figures of each link, and hits by family, worst first."""
    by_link = {link: [row for row in rows if row["link"] == link] for link in LINKS}
    real = _share(by_link["real"])
    links = {}
    for link, found in by_link.items():
        hits = sum(row["heard"] == row["family"] for row in found)
        links[link] = {
            "accuracy": _share(found) if found else None,
            "interval": list(wilson_interval(hits, len(found))) if found else None,
            "of_real": _share(found) / real if found and real else None,
            "n": len(found),
            "families_at_zero": sum(
                hits == 0 for hits, n in _by_family(found, families).values() if n
            ),
            **{name: _mean(found, name) for name in DISTANCES},
            "n_lsd_high": sum("lsd_high" in row for row in found),
        }
    tables = {link: _by_family(found, families) for link, found in by_link.items()}

    def badness(family: str) -> list[float]:
        counts = [tables[link][family] for link in ("generated", "vae_vocoder", "real")]
        return [hits / n if n else 1.0 for hits, n in counts]

    ordered = sorted(families, key=badness)
    return {
        "links": links,
        "families": {f: {link: list(tables[link][f]) for link in LINKS} for f in ordered},
        "skipped": [row["key"] for row in rows if row["link"] == "skipped"],
    }


def recognised(
    probabilities: np.ndarray | None, families: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """How many sounds [N, K] are taken for their family, with a 95% interval."""
    assert probabilities is not None
    pairs = zip(probabilities.argmax(1), families, strict=True)
    hits = sum(classes[int(place)] == family for place, family in pairs)
    interval = wilson_interval(hits, len(families))
    return {"accuracy": hits / len(families), "interval": list(interval), "n": len(families)}


def _share(rows: Sequence[Row]) -> float:
    return sum(row["heard"] == row["family"] for row in rows) / len(rows) if rows else 0.0


def _mean(rows: Sequence[Row], name: str) -> float | None:
    found = [row[name] for row in rows if name in row]
    return sum(found) / len(found) if found else None


def _by_family(rows: Sequence[Row], families: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Family -> (hits, rows)."""
    counts = dict.fromkeys(families, (0, 0))
    for row in rows:
        hits, n = counts[row["family"]]
        counts[row["family"]] = (hits + (row["heard"] == row["family"]), n + 1)
    return counts


def card_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report's links as figures of a model card: name -> facts."""
    facts = ("accuracy", "of_real", "n", "families_at_zero")
    return {
        f"taken for their family by the tagger, {_data(report)}, {link.replace('_', ' ')}": {
            fact: found[fact] for fact in facts if found[fact] is not None
        }
        for link, found in report["links"].items()
        if found["n"]
    }


def chain_markdown(report: Mapping[str, Any]) -> str:
    """The report as two tables: links, and families from the worst."""
    links = report["links"].values()
    titles = {**DISTANCES, "n_lsd_high": "N of LSD 8 to 16 kHz"}
    titles = {n: title for n, title in titles.items() if any(found[n] for found in links)}
    heads = ["link", "accuracy", "95% interval", "of real", "N", "families at 0", *titles.values()]
    generated = f"generated from seed {report['seed']}, {report['seeds']} a wording"
    if not report["links"]["generated"]["n"]:
        generated = "nothing generated"
    lines = [
        f"Tagger {report['tagger'][:12]}, split {_data(report)}, {generated}.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for link, found in report["links"].items():
        figures = [
            _cell(found["accuracy"]),
            " to ".join(_cell(end) for end in found["interval"] or ()) or "-",
            *(_cell(found[name]) for name in ("of_real", "n", "families_at_zero", *titles)),
        ]
        lines.append(f"| {link.replace('_', ' ')} | {' | '.join(figures)} |")
    lines += ["", "| family | " + " | ".join(link.replace("_", " ") for link in LINKS) + " |"]
    lines.append("|---|" + "---|" * len(LINKS))
    for family, found in report["families"].items():
        cells = [f"{hits}/{n}" for hits, n in (found[link] for link in LINKS)]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _data(report: Mapping[str, Any]) -> str:
    """The split, and what else chose its recordings."""
    return ", ".join([report["split"], *(f"{k} {value}" for k, value in report["where"].items())])


def _cell(value: float | None) -> str:
    """Three decimals of a figure, a count as it is, a dash for what was not measured."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
