"""The chain, link by link: how recognisable sounds are after each part of the model.

Real recordings, the vocoder on their mel, Griffin-Lim on the same mel, VAE and vocoder, and sounds
generated for the frozen wordings, all judged by the same tagger: what a link loses is seen where
it is lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcrafter.audio import fit_length, normalize_peak, read_audio
from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.evaluate.ledger import Ledger
from soundcrafter.evaluate.metrics import log_mel_distance, stft_distance, wilson_interval
from soundcrafter.evaluate.prompts import Prompt, family_prompts
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.files import write_json, write_text
from soundcrafter.mel import LogMel
from soundcrafter.models.griffin_lim import griffin_lim
from soundcrafter.options import Progress
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.version import __version__

LINKS = ("real", "vocoder", "griffin_lim", "vae_vocoder", "generated")
RESYNTHESES = ("vocoder", "griffin_lim", "vae_vocoder")
MAX_SECONDS = 10.24  # of a recording
LEVEL = 0.5  # peak of a recording, as in training
GENERATED_AT_ONCE = 8
LEAST_SAMPLES = 2048  # what the spectral distances need

Row = Mapping[str, Any]


def evaluate_chain(
    model: SoundCrafter,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    seeds: int = 2,
    seed: int = 0,
    tagger: Tagger | None = None,
    label_column: str = "family",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every link of a model; writes chain.json, chain.md and figures.json, which a model
    card takes, into `out` and returns the report.

    `data` is a manifest or folder whose `label_column` holds the tagger's classes. Called again
    after a kill it goes on where it was. Raises ValueError where the data has no recording of the
    scored families and where `out` holds results of another model.
    """
    if seeds < 1 or seed < 0:
        raise ValueError(f"seeds, seed: got {seeds}, {seed}; at least 1 and 0")
    tagger = tagger or Tagger.bundled()
    scored = tagger.classes[:-1]
    manifest = read_manifest(data, split=split, label_column=label_column)
    recordings = [r for r in manifest.recordings if r.label in scored]
    if not recordings:
        raise ValueError(f"{data}: no recording of the tagger's {len(scored)} families in {split}")
    identity = {
        "model": dict(model.training_ids),
        "sampling": vars(model.sampling),
        "tagger": tagger.sha256,
        "split": split,
        "seeds": seeds,
        "seed": seed,
    }
    ledger = Ledger(out / "chain.jsonl", identity)
    prompts = [p for p in family_prompts() if p.family in scored]
    total = len(recordings) + len(prompts) * seeds
    report_progress = counter(progress, total)
    for recording in recordings:
        _measure_recording(model, tagger, manifest, recording, ledger)
        report_progress(1)
    for step in _measure_generated(model, tagger, prompts, range(seed, seed + seeds), ledger):
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


def _measure_recording(
    model: SoundCrafter, tagger: Tagger, manifest: Manifest, recording: Recording, ledger: Ledger
) -> None:
    """Rows of one recording: as it is, and through each resynthesis."""
    name = manifest.name(recording)
    key = f"{name}@{recording.start:g}"
    if all(f"{link}/{key}" in ledger for link in ("real", *RESYNTHESES)):
        return
    seconds = min(recording.seconds, MAX_SECONDS)
    try:
        wave = read_audio(recording.file, model.sample_rate, start=recording.start, seconds=seconds)
    except ValueError as error:
        ledger.add(f"skipped/{key}", {"link": "skipped", "reason": str(error)})
        return
    wave = normalize_peak(wave, LEVEL)
    waves = {"real": wave, **resynthesise(model, wave)}
    for link, found in waves.items():
        row: dict[str, Any] = {"link": link, "family": recording.label}
        row["heard"] = _heard(tagger, found, model)
        if link != "real":
            length = max(len(wave), LEAST_SAMPLES)
            pair = fit_length(wave, length), fit_length(found, length)
            row["stft"] = stft_distance(*pair)
            row["log_mel"] = log_mel_distance(*pair, tagger.network.config.mel)
        ledger.add(f"{link}/{key}", row)


@torch.inference_mode()
def resynthesise(model: SoundCrafter, wave: np.ndarray) -> dict[str, np.ndarray]:
    """Wave [N] at the model's rate -> the same sound by each resynthesis, [N] each."""
    config = model.vae.config
    unit = config.mel.hop * config.stride[0]
    least = max(model.vocoder.config.min_frames, config.stride[0], config.mel.n_fft // unit + 1)
    units = max(-(-len(wave) // unit), least)
    padded = torch.from_numpy(fit_length(wave, units * unit))[None].to(model.device)
    mel = LogMel(config.mel).to(model.device)(padded)
    found = {
        "vocoder": model.vocoder(mel),
        "griffin_lim": griffin_lim(mel, config.mel),
        "vae_vocoder": model.vocoder(model.vae.decode(model.vae.encode(mel))),
    }
    return {link: made[0, : len(wave)].float().cpu().numpy() for link, made in found.items()}


def _measure_generated(
    model: SoundCrafter,
    tagger: Tagger,
    prompts: Sequence[Prompt],
    seeds: range,
    ledger: Ledger,
) -> Iterator[int]:
    """Rows of the sounds generated for the frozen wordings; yields how many were looked at."""
    for seed in seeds:
        for begin in range(0, len(prompts), GENERATED_AT_ONCE):
            batch = prompts[begin : begin + GENERATED_AT_ONCE]
            missing = [p for p in batch if f"generated/{p.text}/{seed}" not in ledger]
            if missing:
                texts = [prompt.text for prompt in missing]
                sounds = model.generate(texts, seed=seed, batch_size=GENERATED_AT_ONCE)
                for prompt, sound in zip(missing, sounds, strict=True):
                    row = {"link": "generated", "family": prompt.family}
                    row["heard"] = _heard(tagger, sound.wave, model)
                    ledger.add(f"generated/{prompt.text}/{seed}", row)
            yield len(batch)


def _heard(tagger: Tagger, wave: np.ndarray, model: SoundCrafter) -> str:
    """The class that the tagger gives a sound."""
    probabilities = tagger(wave, model.sample_rate).probabilities
    assert probabilities is not None
    return tagger.classes[int(probabilities.argmax())]


def summarise(rows: Sequence[Row], families: Sequence[str]) -> dict[str, Any]:
    """Pooled figures of each link, and hits by family, worst first."""
    by_link = {link: [row for row in rows if row["link"] == link] for link in LINKS}
    real = _share(by_link["real"])
    links = {}
    for link, found in by_link.items():
        hits = sum(row["heard"] == row["family"] for row in found)
        links[link] = {
            "accuracy": _share(found),
            "interval": list(wilson_interval(hits, len(found))) if found else None,
            "of_real": _share(found) / real if real else None,
            "n": len(found),
            "families_at_zero": sum(
                hits == 0 for hits, n in _by_family(found, families).values() if n
            ),
            "stft": _mean(found, "stft"),
            "log_mel": _mean(found, "log_mel"),
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
        f"taken for their family by the tagger, {report['split']}, {link.replace('_', ' ')}": {
            fact: found[fact] for fact in facts if found[fact] is not None
        }
        for link, found in report["links"].items()
        if found["n"]
    }


def chain_markdown(report: Mapping[str, Any]) -> str:
    """The report as two tables: links, and families from the worst."""
    lines = [
        f"Tagger {report['tagger'][:12]}, split {report['split']}, "
        f"generated from seed {report['seed']}, {report['seeds']} a wording.",
        "",
        "| link | accuracy | 95% interval | of real | N | families at 0 | STFT | log-mel |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for link, found in report["links"].items():
        low, high = found["interval"] or (0.0, 0.0)
        figures = [
            f"{found['accuracy']:.3f}",
            f"{low:.3f} to {high:.3f}",
            _three(found["of_real"]),
            str(found["n"]),
            str(found["families_at_zero"]),
            _three(found["stft"]),
            _three(found["log_mel"]),
        ]
        lines.append(f"| {link.replace('_', ' ')} | {' | '.join(figures)} |")
    lines += ["", "| family | " + " | ".join(link.replace("_", " ") for link in LINKS) + " |"]
    lines.append("|---|" + "---|" * len(LINKS))
    for family, found in report["families"].items():
        cells = [f"{hits}/{n}" for hits, n in (found[link] for link in LINKS)]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
