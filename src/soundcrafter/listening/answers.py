"""The files of a listening test: the key to its sounds, and the answers of listeners."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundcrafter.data.tables import read_table, require_columns

KEY_COLUMNS = ("item", "sound", "system", "prompt", "file")
RESULT_COLUMNS = (
    *("listener", "item", "kind", "question", "answer"),
    "seconds",  # from when the item appeared to the answer
    "order",  # the item's place in this listener's session, from 1
    "sounds",  # of the item in the order of this listener, side A first
)
QUESTIONS = {"pairs": ("overall", "match"), "mos": ("quality", "relevance")}
ANSWERS = {"pairs": ("A", "B", "tie"), "mos": ("1", "2", "3", "4", "5")}


@dataclass(frozen=True)
class Item:
    """The subject of a question: a pair of sounds, or one sound."""

    prompt: str  # the name of the item if it has no text
    systems: Mapping[str, str]  # sound -> system


@dataclass(frozen=True)
class Answer:
    """One answer of a listener."""

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
    """Return the items of a key by name.

    Raises ValueError if it cannot be read or lacks a column, or if items differ in their number of
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
    """Return the answers in several files, and the number of duplicates.

    Of several answers by a listener to the same question the last one counts. Raises ValueError if
    a file cannot be read, a row is not an answer to an item, or there are no answers.
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
        raise ValueError(f"results: no answers ({named})")
    return list(answers.values()), count - len(answers)


def _answer(row: Mapping[str, str], items: Items) -> Answer:
    """The answer in a row. Raises ValueError for a row that does not match the key."""
    item = items.get(row["item"])
    if item is None:
        raise ValueError(f"item: got {row['item']!r}, which is not in the key")
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
    """Yield the given columns of each row of a csv file, with its line number."""
    present, rows = read_table(path)
    require_columns(path, present, columns)
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path}, line {line}: expected {len(present)} fields")
        yield line, {name: row[name].strip() for name in columns}
