"""Sounds of several evaluated models, matched by prompt and seed, and their sort orders."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.reports.evaluations import read_reports, read_sounds

SCORES = {  # score of a sound -> (heading, description)
    "expected": ("P(family)", "probability of the requested family"),
    "clap": ("CLAP", "CLAP: cosine of prompt and sound"),
    "heard": ("predicted", "family that the tagger predicts"),
    "probability": ("confidence", "probability of the predicted family"),
}
_QUALITY = ("expected", "clap")  # the first available one decides which sounds are worst

SoundKey = tuple[str, int, int]  # prompt, seed, and a count of sounds with equal prompt and seed
Value = str | float | None


@dataclass(frozen=True)
class EvaluatedModel:
    """The report of a model and its sounds."""

    name: str
    report: Mapping[str, Any]
    out: Path
    sounds: Mapping[SoundKey, Mapping[str, Any]]


@dataclass(frozen=True)
class Order:
    """An order of the rows, by one value per row; rows without a value come last."""

    label: str
    values: Sequence[Value]
    down: bool = False  # largest first
    column: tuple[int, str] | None = None  # the model and score whose heading selects it


def read_models(outs: Sequence[Path]) -> list[EvaluatedModel]:
    """Return the models of evaluation folders. Raises ValueError as `read_reports` and
    `read_sounds`."""
    return [_model(out, report) for out, report in zip(outs, read_reports(outs), strict=True)]


def scores_of(models: Sequence[EvaluatedModel]) -> list[str]:
    """Return the scores that at least one sound has."""
    sounds = [sound for model in models for sound in model.sounds.values()]
    return [score for score in SCORES if any(sound.get(score) is not None for sound in sounds)]


def orders_of(
    models: Sequence[EvaluatedModel], keys: Sequence[SoundKey], scores: Sequence[str]
) -> list[Order]:
    """Return the orders of the rows of `keys`.

    The first one begins with the worst sounds: by the tagger's probability of the requested family,
    else by CLAP score, else in the order of the prompts. With several models, the worst sound of a
    row counts.
    """
    columns = [
        Order(
            f"{model.name}: {SCORES[score][1]}" if len(models) > 1 else SCORES[score][1],
            [model.sounds.get(key, {}).get(score) for key in keys],
            column=(place, score),
        )
        for place, model in enumerate(models)
        for score in scores
    ]
    plain = [
        Order("order of the prompts", list(range(len(keys)))),
        Order("prompt", [key[0] for key in keys], column=(-1, "prompt")),
    ]
    quality = next((score for score in _QUALITY if score in scores), None)
    by_quality = [
        order for order in columns if order.column is not None and order.column[1] == quality
    ]
    if len(models) == 1:
        return [*by_quality, *plain, *(order for order in columns if order not in by_quality)]
    return [*(_between(by_quality, SCORES[quality][1]) if quality else ()), *plain, *columns]


def _model(out: Path, report: Mapping[str, Any]) -> EvaluatedModel:
    seen: Counter[tuple[str, int]] = Counter()
    matched = {}
    for sound in read_sounds(out):
        pair = (sound["prompt"], sound["seed"])
        matched[*pair, seen[pair]] = sound
        seen[pair] += 1
    return EvaluatedModel(report["name"], report, out, matched)


def _between(orders: Sequence[Order], score: str) -> list[Order]:
    """Orders by the worst value of the models in a row, and by their largest difference."""
    rows = [
        [value for value in row if isinstance(value, float | int)]
        for row in zip(*(order.values for order in orders), strict=True)
    ]
    worst = [min(row) if row else None for row in rows]
    gaps = [max(row) - min(row) if len(row) > 1 else None for row in rows]
    return [
        Order(f"worst model: {score}", worst),
        Order(f"largest difference between models: {score}", gaps, down=True),
    ]
