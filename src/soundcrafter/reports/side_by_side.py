"""Sounds of several evaluated models, matched by prompt and seed, and the ways to sort them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.reports.table import read_reports

SCORES = {  # of a sound: key -> (heading, description)
    "expected": ("family p", "probability of the requested family"),
    "clap": ("CLAP", "CLAP: cosine of prompt and sound"),
    "heard": ("predicted", "family that the tagger predicts"),
    "probability": ("its p", "probability of the predicted family"),
}
_QUALITY = ("expected", "clap")  # the first one available decides which sounds are worst

Key = tuple[str, int, int]  # prompt, seed, and a count of sounds with equal prompt and seed
Value = str | float | None


@dataclass(frozen=True)
class Model:
    """One evaluated model and its sounds."""

    name: str
    report: Mapping[str, Any]
    out: Path
    sounds: Mapping[Key, Mapping[str, Any]]


@dataclass(frozen=True)
class Order:
    """One way to sort the rows: a value per row; rows without one come last."""

    label: str
    values: Sequence[Value]
    down: bool = False  # largest first
    column: tuple[int, str] | None = None  # the model and score whose heading sorts by it


def read_models(outs: Sequence[Path]) -> list[Model]:
    """The models of evaluation folders. Raises ValueError as `read_reports`, and for a report
    without sounds."""
    return [_model(out, report) for out, report in zip(outs, read_reports(outs), strict=True)]


def scores_of(models: Sequence[Model]) -> list[str]:
    """The keys of SCORES that any sound has."""
    sounds = [sound for model in models for sound in model.sounds.values()]
    return [score for score in SCORES if any(sound.get(score) is not None for sound in sounds)]


def orders_of(models: Sequence[Model], keys: Sequence[Key], scores: Sequence[str]) -> list[Order]:
    """All ways to sort the rows of `keys`. The first one puts the worst sounds first: by the
    tagger's probability of the requested family, else by CLAP score, else in the order of the
    prompts. With several models a row counts as its worst sound."""
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


def _model(out: Path, report: Mapping[str, Any]) -> Model:
    sounds = report.get("sounds")
    if not sounds:
        raise ValueError(
            f"{out / 'report.json'}: lists no sounds; allowed: the reports of soundcrafter "
            "evaluate captions, families, free and prompts"
        )
    seen: Counter[tuple[str, int]] = Counter()
    matched = {}
    for sound in sounds:
        pair = (sound["prompt"], sound["seed"])
        matched[*pair, seen[pair]] = sound
        seen[pair] += 1
    return Model(report["name"], report, out, matched)


def _between(orders: Sequence[Order], score: str) -> list[Order]:
    """Orders over several models: by their worst value of a row, and by their difference."""
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
