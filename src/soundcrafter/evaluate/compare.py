"""Comparison of generated with reference sounds, by every metric that an embedder allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soundcrafter.evaluate.embedding import Embedded, Embedder
from soundcrafter.evaluate.metrics import (
    clap_score,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    kl_divergence,
)
from soundcrafter.evaluate.sound_files import SoundFiles
from soundcrafter.markdown import format_number, markdown_table

NEIGHBOURS = 5  # of density and coverage
SUBSET_SIZE = 100  # of the kernel distance, or as many as there are


@dataclass(frozen=True)
class EmbeddedSounds:
    """Sounds and their embeddings."""

    sounds: SoundFiles
    embedded: Sequence[Embedded]  # of each embedder, in the order of the files
    texts: Sequence[
        np.ndarray | None
    ] = ()  # prompt embeddings [N, E] of each embedder; None: without text


def compare(
    generated: EmbeddedSounds,
    reference: EmbeddedSounds,
    embedders: Sequence[Embedder],
    *,
    splits: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Return all metrics of generated and reference sounds, by embedder.

    The CLAP score needs the texts of the generated sounds, and KL needs names that both sides have.
    Every distance is reported with its floor, the distance between two halves of the reference
    drawn by `seed`, and with the distance of the generated sounds at the same N, because distances
    depend on N.
    """
    made, real = generated.sounds, reference.sounds
    names = [name for name in made.files if name in real.files]
    places = [list(made.files).index(name) for name in names]
    partners = [list(real.files).index(name) for name in names]
    texts = generated.texts or [None] * len(embedders)
    sides = zip(embedders, generated.embedded, reference.embedded, texts, strict=True)
    return {
        "generated": len(made.files),
        "reference": len(real.files),
        "pairs": len(names),
        "sample_rates": {"generated": made.sample_rate, "reference": real.sample_rate},
        "resampler": "soxr HQ",
        "seed": seed,
        "skipped": {"generated": made.skipped, "reference": real.skipped},
        "embedders": [
            {
                "embedder": embedder.name,
                "sha256": embedder.sha256,
                "sample_rate": embedder.sample_rate,
                **_distances(x, y, seed),
                **_class_metrics(x, y, places, partners, splits, seed),
                **_text_metrics(x, text),
            }
            for embedder, x, y, text in sides
        ],
    }


def _class_metrics(
    made: Embedded,
    real: Embedded,
    places: Sequence[int],
    partners: Sequence[int],
    splits: int,
    seed: int,
) -> dict[str, Any]:
    """Inception score, and KL of the sounds at `places` from their partners; nothing without
    class probabilities."""
    if made.probabilities is None or real.probabilities is None:
        return {}
    used = min(splits, len(made.probabilities))
    mean, std = inception_score(made.probabilities, used, seed)
    most = len(made.probabilities) / used
    found: dict[str, Any] = {
        "is": {"mean": mean, "std": std, "splits": used, "n_over_splits": most}
    }
    if places:
        kl = kl_divergence(real.probabilities[partners], made.probabilities[places])
        found["kl"] = {"mean": kl, "pairs": len(places)}
    return found


def _text_metrics(made: Embedded, texts: np.ndarray | None) -> dict[str, Any]:
    """The CLAP score of sounds and their texts [N, E]."""
    if texts is None:
        return {}
    return {"clap": {"mean": clap_score(texts, made.features), "n": len(texts)}}


def _distances(made: Embedded, real: Embedded, seed: int) -> dict[str, Any]:
    """FD, kernel distance, density and coverage, the floor, and the FD at the N of the floor."""
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
    """FD between two halves of the reference, and between generated sounds and one half, all with
    the same number of sounds; None if that would be below 2."""
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
    """Return the report as a table, one row per embedder."""
    rates, skipped = report["sample_rates"], report["skipped"]
    rows = []
    for found in report["embedders"]:
        floor, score = found.get("floor") or {}, found.get("is")
        rows.append(
            [
                found["embedder"],
                found["sha256"][:12],
                str(found["sample_rate"]),
                _short(found.get("fd")),
                _short(floor.get("fd_generated")),
                f"{_short(floor['fd'])} ({floor['n']})" if floor else "-",
                _short(_mean(found, "kid")),
                f"{_short(score['mean'])} ± {_short(score['std'])} ({score['splits']})"
                if score
                else "-",
                _short(_mean(found, "kl")),
                _short(found.get("density")),
                _short(found.get("coverage")),
                _short(_mean(found, "clap")),
            ]
        )
    columns = (
        *("embedder", "sha256", "Hz", "FD", "FD at the floor's N", "floor", "KID", "IS (splits)"),
        *("KL", "density", "coverage", "CLAP"),
    )
    lines = [
        f"N generated {report['generated']} ({_rate(rates['generated'])}), reference "
        f"{report['reference']} ({_rate(rates['reference'])}), pairs {report['pairs']}, skipped "
        f"{len(skipped['generated'])} and {len(skipped['reference'])}; resampler "
        f"{report['resampler']}, seed {report['seed']}. Floor: two halves of the reference, N each "
        "in brackets.",
        "",
        *markdown_table(columns, rows),
        *_families_markdown(report),
    ]
    return "\n".join(lines) + "\n"


def _rate(sample_rate: int | None) -> str:
    return f"{sample_rate} Hz" if sample_rate else "mixed rates"


def _short(value: float | None) -> str:
    return format_number(value, ".4g")


def _mean(found: Mapping[str, Any], metric: str) -> float | None:
    mean: float | None = (found.get(metric) or {}).get("mean")
    return mean


def card_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures for a model card: name -> figures."""
    of = f", {report['split']}" if report.get("split") else ""
    figures: dict[str, Any] = {}
    for found in report["embedders"]:
        floor = found.get("floor") or {}
        facts = {
            "FD": found.get("fd"),
            "floor": floor.get("fd"),
            "FD at the floor's N": floor.get("fd_generated"),
            "N of the floor": floor.get("n"),
            **{name.upper(): _mean(found, name) for name in ("is", "kl", "clap")},
            "generated": report["generated"],
            "reference": report["reference"],
            "pairs": report["pairs"],
        }
        named = f"sounds for prompts, by {found['embedder']} {found['sha256'][:12]}{of}"
        figures[named] = {name: value for name, value in facts.items() if value is not None}
    if found := report.get("recognised"):
        figures[f"recognised as their family by the tagger{of}, prompts"] = {
            "accuracy": found["accuracy"],
            "n": found["n"],
        }
    return figures


def _families_markdown(report: Mapping[str, Any]) -> list[str]:
    """The metrics of sounds whose prompts name families, one line each."""
    lines = []
    if found := report.get("recognised"):
        low, high = found["interval"]
        lines.append(
            f"Recognised as their family: {found['accuracy']:.3f} ({low:.3f} to {high:.3f}) of "
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
