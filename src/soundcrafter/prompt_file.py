"""Files of prompts for bulk generation: a text file, or a table whose rows have options."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundcrafter.data.tables import read_table, require_columns
from soundcrafter.settings import closest

OPTIONS: Mapping[str, type] = {
    "seed": int,
    "count": int,
    "seconds": float,
    "steps": int,
    "guidance": float,
    "negative": str,
    "sampler": str,
    "candidates": int,
    "reuse": int,
}
_IGNORED = ("family",)  # for evaluation
_COLUMNS = ("prompt", "name", *OPTIONS, *_IGNORED)


@dataclass(frozen=True)
class PromptRow:
    """A prompt with its own options, which override those of the command line."""

    prompt: str
    name: str = ""  # of its file
    options: Mapping[str, Any] = field(default_factory=dict)


def read_prompt_file(path: Path) -> list[PromptRow]:
    """Read the prompts of a file, at least one.

    A csv, jsonl or Parquet file has a column `prompt`, and optionally `name` and those in OPTIONS.
    An empty cell falls back to the command-line option. Any other file is text: one prompt per
    line; # starts a comment. Raises ValueError for a file that cannot be read, an unknown column, a
    value of the wrong type and a row without a prompt.
    """
    if path.suffix.lower() not in (".csv", ".jsonl", ".parquet"):
        rows = [PromptRow(line) for line in read_prompt_lines(path)]
    else:
        columns, table = read_table(path)
        require_columns(path, columns, ["prompt"])
        for column in sorted(columns - set(_COLUMNS)):
            raise ValueError(f"{path}: {column}: unknown column{closest(column, _COLUMNS)}")
        rows = [_row(row, f"{path}: row {number}") for number, row in enumerate(table, 1)]
    if not rows:
        raise ValueError(f"{path}: contains no prompts")
    return rows


def read_prompt_lines(path: Path) -> list[str]:
    """Read a text file with one prompt per line; empty lines and comments (#) are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot read: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _row(cells: Mapping[str, Any], where: str) -> PromptRow:
    given = {key: cell for key, cell in cells.items() if cell is not None and str(cell).strip()}
    for column in ("prompt", "name"):
        if not isinstance(given.get(column, ""), str):
            raise ValueError(f"{where}: {column}: got {given[column]!r}; expected a string")
    if "prompt" not in given:
        raise ValueError(f"{where}: the prompt is empty")
    options = {
        key: _value(given[key], kind, f"{where}: {key}")
        for key, kind in OPTIONS.items()
        if key in given
    }
    return PromptRow(given["prompt"].strip(), given.get("name", "").strip(), options)


def _value(cell: Any, kind: type, where: str) -> Any:
    """Convert a cell to its column's type; in a csv file every cell is text."""
    value: Any = cell
    if isinstance(cell, str) and kind is not str:
        try:
            value = json.loads(cell)
        except ValueError:
            value = None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        expected = {int: "a whole number", float: "a number", str: "text"}[kind]
        raise ValueError(f"{where}: got {cell!r}; expected {expected}")
    return value
