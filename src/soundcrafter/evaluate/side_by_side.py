"""Sounds of several evaluated models, matched by prompt and seed, and the ways to sort them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.evaluate.table import read_reports

SCORES = {  # of a sound: key -> (heading, what it is)
    "expected": ("wanted", "probability of the wanted family"),
    "clap": ("CLAP", "CLAP: cosine of prompt and sound"),
    "heard": ("heard as", "what the tagger hears"),
    "probability": ("its p", "probability of what it hears"),
}
_BAD = ("expected", "clap")  # what the worst sounds are low in: the first that there is

Key = tuple[str, int, int]  # prompt, seed, and which of the sounds that are equal in both
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
    """One way to sort the rows: a value a row, rows without one last."""

    label: str
    values: Sequence[Value]
    down: bool = False  # the largest first
    column: tuple[int, str] | None = None  # the model and the score whose heading sorts so


def read_models(outs: Sequence[Path]) -> list[Model]:
    """The models of evaluation folders. Raises ValueError as `read_reports`, and for a report that
    lists no sounds."""
    return [_model(out, report) for out, report in zip(outs, read_reports(outs), strict=True)]


def scores_of(models: Sequence[Model]) -> list[str]:
    """Those keys of SCORES that any sound has."""
    sounds = [sound for model in models for sound in model.sounds.values()]
    return [score for score in SCORES if any(sound.get(score) is not None for sound in sounds)]


def orders_of(models: Sequence[Model], keys: Sequence[Key], scores: Sequence[str]) -> list[Order]:
    """All ways to sort rows of `keys`; first the one that shows the worst sounds first: by the
    tagger's probability of the wanted family, else by CLAP, else in the order of the prompts. Of
    several models a row counts as its worst sound."""
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
    bad = next((score for score in _BAD if score in scores), None)
    of_bad = [order for order in columns if order.column is not None and order.column[1] == bad]
    if len(models) == 1:
        return [*of_bad, *plain, *(order for order in columns if order not in of_bad)]
    return [*(_between(of_bad, SCORES[bad][1]) if bad else ()), *plain, *columns]


def _model(out: Path, report: Mapping[str, Any]) -> Model:
    sounds = report.get("sounds")
    if not sounds:
        raise ValueError(
            f"{out / 'report.json'}: lists no sounds; allowed: what soundcrafter evaluate writes "
            "with --prompts"
        )
    seen: Counter[tuple[str, int]] = Counter()
    matched = {}
    for sound in sounds:
        pair = (sound["prompt"], sound["seed"])
        matched[*pair, seen[pair]] = sound
        seen[pair] += 1
    return Model(report["name"], report, out, matched)


def _between(orders: Sequence[Order], score: str) -> list[Order]:
    """What models have together: their worst value of a row, and how far they are apart."""
    rows = [
        [value for value in row if isinstance(value, float | int)]
        for row in zip(*(order.values for order in orders), strict=True)
    ]
    worst = [min(row) if row else None for row in rows]
    gaps = [max(row) - min(row) if len(row) > 1 else None for row in rows]
    return [
        Order(f"worst of the models: {score}", worst),
        Order(f"models farthest apart: {score}", gaps, down=True),
    ]
