"""The files of a listening test: the key that says what was heard, and what listeners saved."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KEY_COLUMNS = ("item", "sound", "system", "prompt", "file")
RESULT_COLUMNS = (
    *("listener", "item", "kind", "question", "answer"),
    "seconds",  # from the item's appearance to the answer
    "order",  # the item's place in this listener's session, from 1
    "sounds",  # those of the item as this listener had them, side A first
)
QUESTIONS = {"pairs": ("overall", "match"), "mos": ("quality", "relevance")}
ANSWERS = {"pairs": ("A", "B", "tie"), "mos": ("1", "2", "3", "4", "5")}


@dataclass(frozen=True)
class Item:
    """What listeners are asked about: a pair of sounds, or one."""

    prompt: str  # the item's own name where it has no text
    systems: Mapping[str, str]  # sound -> system


@dataclass(frozen=True)
class Answer:
    """One row of results."""

    listener: str
    item: str
    kind: str
    question: str
    answer: str
    seconds: float
    order: int
    sounds: tuple[str, ...]


Items = Mapping[str, Item]


def read_key(path: Path) -> dict[str, Item]:
    """The items of a key by name.

    Raises ValueError where it cannot be read, lacks a column, or items differ in their number of
    sounds.
    """
    prompts: dict[str, str] = {}
    systems: dict[str, dict[str, str]] = defaultdict(dict)
    for _, row in _rows(path, KEY_COLUMNS):
        prompts[row["item"]] = row["prompt"] or row["item"]
        systems[row["item"]][row["sound"]] = row["system"]
    sizes = {len(sounds) for sounds in systems.values()}
    if sizes not in ({1}, {2}):
        raise ValueError(f"{path}: not the key of a listening test: each item has 1 or 2 sounds")
    return {name: Item(prompts[name], sounds) for name, sounds in systems.items()}


def read_results(paths: Sequence[Path], items: Items) -> tuple[list[Answer], int]:
    """The answers of several files, the last one where a listener answered a question twice, and
    how many were overruled so.

    Raises ValueError where a file cannot be read, a row is no answer to an item, or there is none.
    """
    answers: dict[tuple[str, str, str], Answer] = {}
    count = 0
    for path in paths:
        for line, row in _rows(path, RESULT_COLUMNS):
            try:
                answer = _answer(row, items)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
            name = answer.listener, answer.item, answer.question
            answers.pop(name, None)
            answers[name] = answer
            count += 1
    if not answers:
        named = ", ".join(map(str, paths)) or "no file given"
        raise ValueError(f"results: no answer in them ({named})")
    return list(answers.values()), count - len(answers)


def _answer(row: Mapping[str, str], items: Items) -> Answer:
    """A row checked against the key. Raises ValueError saying what is wrong in it."""
    item = items.get(row["item"])
    if item is None:
        raise ValueError(f"item: got {row['item']!r}, which the key does not know")
    kind = "pairs" if len(item.systems) == 2 else "mos"
    sounds = tuple(row["sounds"].split())
    for name, allowed in (
        ("kind", (kind,)),
        ("question", QUESTIONS[kind]),
        ("answer", ANSWERS[kind]),
    ):
        if row[name] not in allowed:
            raise ValueError(f"{name}: got {row[name]!r}; allowed: {', '.join(allowed)}")
    if sorted(sounds) != sorted(item.systems):
        raise ValueError(f"sounds: got {row['sounds']!r}; the key has {' '.join(item.systems)}")
    if not row["listener"]:
        raise ValueError("listener: it is empty")
    if not row["order"].isdecimal():
        raise ValueError(f"order: got {row['order']!r}; allowed: 1, 2, ...")
    return Answer(
        row["listener"],
        row["item"],
        kind,
        row["question"],
        row["answer"],
        _seconds(row["seconds"]),
        int(row["order"]),
        sounds,
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"seconds: got {text!r}; allowed: a number of 0 or more")
    return value


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file with the given columns among its own, each with its line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: it has no column {', '.join(missing)}")
            for row in reader:
                if None in row or None in row.values():
                    count = len(reader.fieldnames or ())
                    raise ValueError(f"{path}, line {reader.line_num}: expected {count} fields")
                yield reader.line_num, {name: row[name].strip() for name in columns}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a csv table: {error}") from None
