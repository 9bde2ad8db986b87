"""Generated sounds against reference sounds, by every figure that an embedder allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import AUDIO_SUFFIXES, audio_info, read_audio
from soundcrafter.data.manifest import read_manifest
from soundcrafter.evaluate.embedders import ClapEmbedder
from soundcrafter.evaluate.embedding import Embedder
from soundcrafter.evaluate.embeddings import Embedded, embed
from soundcrafter.evaluate.metrics import (
    clap_score,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    kl_divergence,
)
from soundcrafter.progress import Progress

NEIGHBOURS = 5  # of density and coverage
SUBSET_SIZE = 100  # of the kernel distance, or as many as there are


@dataclass(frozen=True)
class SoundFiles:
    """The readable sounds of a folder, by file name below it without suffix."""

    files: Mapping[str, Path]
    sample_rate: int  # Hz; 0 where rates may be mixed
    skipped: Mapping[str, str]  # file -> reason


def find_sounds(folder: Path, *, mixed_rates: bool = False) -> SoundFiles:
    """The sounds below a folder. Files that cannot be read are passed over and counted.

    Raises ValueError for a missing folder, one without readable sound, and mixed sample rates
    where they are not allowed: resampling alone moves distances.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    rates: dict[int, str] = {}
    skipped: dict[str, str] = {}
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in AUDIO_SUFFIXES):
        name = file.relative_to(folder)
        try:
            rate = audio_info(file).sample_rate
            read_audio(file, rate)
        except ValueError as error:
            skipped[name.as_posix()] = str(error)
            continue
        files[name.with_suffix("").as_posix()] = file
        rates.setdefault(rate, name.as_posix())
    if not files:
        raise ValueError(f"{folder}: no readable sound in it ({len(skipped)} skipped)")
    if len(rates) > 1 and not mixed_rates:
        found = ", ".join(f"{rate} Hz ({name})" for rate, name in sorted(rates.items()))
        raise ValueError(f"{folder}: mixed sample rates: {found}; allow them by --mixed-rates")
    return SoundFiles(files, next(iter(rates)) if len(rates) == 1 else 0, skipped)


def find_recordings(data: Path, split: str) -> SoundFiles:
    """The recordings of one split of a manifest, whatever their sample rates.

    Raises ValueError as `read_manifest`, and for recordings that are stretches of longer files.
    """
    manifest = read_manifest(data, split=split)
    part = next((manifest.name(r) for r in manifest.recordings if r.start > 0), None)
    if part is not None:
        raise ValueError(f"{data}: {part} is part of a longer file; cut it out first")
    files = {manifest.stem(r): r.file for r in manifest.recordings}
    return SoundFiles(files, 0, dict(manifest.skipped))


def compare(
    generated: SoundFiles,
    reference: SoundFiles,
    embedders: Sequence[Embedder],
    *,
    prompts: Mapping[str, str] | None = None,
    splits: int = 10,
    seed: int = 0,
    paired: bool = False,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All figures of generated against reference sounds, by embedder.

    `prompts` (file stem -> text) allow a CLAP score. KL needs sounds of equal names; `paired`
    insists on them. Every distance stands beside its floor: halves of the reference, drawn by
    `seed`, against each other, and the generated ones at that N, for distances depend on N. `kept`
    is a folder of embeddings, see `embed_file`.
    Raises ValueError where names have no partner but `paired` asks for it.
    """
    names = [name for name in generated.files if name in reference.files]
    lonely = sorted(set(generated.files) ^ set(reference.files))
    if paired and lonely:
        raise ValueError(f"{len(lonely)} sounds have no partner, the first: {lonely[0]}")
    results = [
        _figures(embedder, generated, reference, names, prompts or {}, splits, seed, kept, progress)
        for embedder in embedders
    ]
    return {
        "generated": len(generated.files),
        "reference": len(reference.files),
        "pairs": len(names),
        "sample_rates": {"generated": generated.sample_rate, "reference": reference.sample_rate},
        "resampler": "soxr HQ",
        "seed": seed,
        "skipped": {"generated": generated.skipped, "reference": reference.skipped},
        "embedders": results,
    }


def _figures(
    embedder: Embedder,
    generated: SoundFiles,
    reference: SoundFiles,
    names: Sequence[str],
    prompts: Mapping[str, str],
    splits: int,
    seed: int,
    kept: Path | None,
    progress: Progress | None,
) -> dict[str, Any]:
    made, real = (
        embed(embedder, side.files.values(), kept=kept, progress=progress)
        for side in (generated, reference)
    )
    result: dict[str, Any] = {
        "embedder": embedder.name,
        "sha256": embedder.sha256,
        "sample_rate": embedder.sample_rate,
        **_distances(made, real, seed),
    }
    if made.probabilities is not None and real.probabilities is not None:
        used = min(splits, len(made.probabilities))
        mean, std = inception_score(made.probabilities, used, seed)
        most = len(made.probabilities) / used
        result["is"] = {"mean": mean, "std": std, "splits": used, "n_over_splits": most}
        places = [list(generated.files).index(name) for name in names]
        partners = [list(reference.files).index(name) for name in names]
        if names:
            pair = made.probabilities[places], real.probabilities[partners]
            result["kl"] = {"mean": kl_divergence(pair[1], pair[0]), "pairs": len(names)}
    said = [place for place, name in enumerate(generated.files) if name in prompts]
    if isinstance(embedder, ClapEmbedder) and said:
        texts = embedder.embed_text([prompts[list(generated.files)[place]] for place in said])
        audio = np.concatenate([made.rows[place] for place in said])
        result["clap"] = {"mean": clap_score(texts, audio), "n": len(said)}
    return result


def _distances(made: Embedded, real: Embedded, seed: int) -> dict[str, Any]:
    """FD, kernel distance, density and coverage; the floor and the FD at the floor's N."""
    x, y = made.features, real.features
    result: dict[str, Any] = {"rows": {"generated": len(x), "reference": len(y)}}
    if min(len(x), len(y)) < 2:
        return {**result, "fd": None, "reason": "distances need two sounds on both sides"}
    result["fd"] = frechet_distance(x, y)
    size = min(SUBSET_SIZE, len(x), len(y))
    mean, std = kernel_distance(x, y, subset_size=size, seed=seed)
    result["kid"] = {"mean": mean, "std": std, "subset_size": size}
    if len(y) > NEIGHBOURS:
        density, coverage = density_coverage(y, x, NEIGHBOURS)
        result |= {"density": density, "coverage": coverage, "neighbours": NEIGHBOURS}
    result["floor"] = _floor(made, real, seed)
    return result


def _floor(made: Embedded, real: Embedded, seed: int) -> dict[str, Any] | None:
    """FD of half the reference against the other half, and of generated sounds against a half, at
    one N of sounds; None where that would be below 2."""
    n = min(len(made.rows), len(real.rows) // 2)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    order, chosen = rng.permutation(len(real.rows)), rng.permutation(len(made.rows))[:n]
    first, second = (_rows(real, part) for part in (order[:n], order[n : 2 * n]))
    return {
        "n": n,
        "fd": frechet_distance(first, second),
        "fd_generated": frechet_distance(_rows(made, chosen), first),
    }


def _rows(embedded: Embedded, places: np.ndarray) -> np.ndarray:
    return np.concatenate([embedded.rows[place] for place in places])


def compare_markdown(report: Mapping[str, Any]) -> str:
    """The report as a table, a row an embedder."""
    rates = report["sample_rates"]
    skipped = {side: len(found) for side, found in report["skipped"].items()}
    lines = [
        f"N generated {report['generated']} ({rates['generated']} Hz), reference "
        f"{report['reference']} ({rates['reference']} Hz), pairs {report['pairs']}, skipped "
        f"{skipped['generated']} and {skipped['reference']}; resampler {report['resampler']}, "
        f"seed {report['seed']}. Floor: two halves of the reference, N each in brackets.",
        "",
        "| embedder | sha256 | Hz | FD | FD at the floor's N | floor | KID | IS (splits) | KL |"
        " density | coverage | CLAP |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in report["embedders"]:
        floor = found.get("floor") or {}
        score, kid = found.get("is") or {}, found.get("kid") or {}
        cells = [
            found["embedder"],
            found["sha256"][:12],
            str(found["sample_rate"]),
            _short(found.get("fd")),
            _short(floor.get("fd_generated")),
            f"{_short(floor.get('fd'))} ({floor.get('n', 0)})",
            _short(kid.get("mean")),
            f"{_short(score.get('mean'))} ± {_short(score.get('std'))} ({score.get('splits', 0)})",
            _short((found.get("kl") or {}).get("mean")),
            _short(found.get("density")),
            _short(found.get("coverage")),
            _short((found.get("clap") or {}).get("mean")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *_families_markdown(report)]) + "\n"


def card_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as figures of a model card: name -> facts."""
    of = f", {report['split']}" if report.get("split") else ""
    figures: dict[str, Any] = {}
    for found in report["embedders"]:
        floor = found.get("floor") or {}
        facts = {
            "FD": found.get("fd"),
            "floor": floor.get("fd"),
            "FD at the floor's N": floor.get("fd_generated"),
            "N of the floor": floor.get("n"),
            **{name.upper(): (found.get(name) or {}).get("mean") for name in ("is", "kl", "clap")},
            "generated": report["generated"],
            "reference": report["reference"],
            "pairs": report["pairs"],
        }
        named = f"sounds for prompts, by {found['embedder']} {found['sha256'][:12]}{of}"
        figures[named] = {name: value for name, value in facts.items() if value is not None}
    if found := report.get("recognised"):
        figures[f"taken for their family by the tagger{of}, prompts"] = {
            "accuracy": found["accuracy"],
            "n": found["n"],
        }
    return figures


def _families_markdown(report: Mapping[str, Any]) -> list[str]:
    """What is known of sounds whose prompts name families: a line a figure."""
    lines = []
    if found := report.get("recognised"):
        low, high = found["interval"]
        lines.append(
            f"Taken for their family: {found['accuracy']:.3f} ({low:.3f} to {high:.3f}) of "
            f"{found['n']}."
        )
    if found := report.get("variety"):
        lines.append(
            f"Mean CLAP distance within a family: generated {found['generated']:.3f}, real "
            f"{found['real']:.3f}, ratio {found['of_real']:.2f}."
        )
    if found := report.get("copies"):
        lines.append(
            f"Nearer to a training recording, in log-mel and CLAP, than the first percentile of "
            f"test recordings: {found['share']:.3f} of {found['n']}."
        )
    return ["", *lines] if lines else []


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
