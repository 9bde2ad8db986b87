"""Tables in csv, jsonl and Parquet files."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # column -> cell


def read_table(path: Path) -> tuple[set[str], list[Row]]:
    """Return the columns and rows of a csv, jsonl or Parquet file.

    A row with a list of captions becomes one row per caption. Raises ValueError for a file that
    cannot be read, for a csv row with more fields than columns, and for Parquet without pyarrow.
    """
    if path.suffix.lower() == ".parquet":
        columns, rows = _read_parquet(path)
        return columns, split_captions(rows)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("every line must be a JSON object")
            return {column for row in rows for column in row}, split_captions(rows)
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if twice:
            raise ValueError(f"two columns are called {twice[0]!r}")
        rows = []
        for row in reader:
            if None in row:
                raise ValueError(
                    f"line {reader.line_num} has more fields than columns "
                    f"({', '.join(reader.fieldnames or ())}); put quotes around text with commas"
                )
            rows.append(row)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path}: not a {path.suffix or 'csv'} table: {error}") from None
    return set(reader.fieldnames or ()), rows


def _read_parquet(path: Path) -> tuple[set[str], list[Row]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise ValueError(
            f"{path}: Parquet needs pyarrow; install it with: pip install 'soundcrafter[ray]'"
        ) from None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a Parquet table: {error}") from None
    rows = [
        # in a table that pandas wrote, an empty cell of numbers is NaN
        {name: None if cell != cell else cell for name, cell in row.items()}
        for row in table.to_pylist()
    ]
    return set(table.column_names), rows


def split_captions(rows: Sequence[Row]) -> list[Row]:
    """Replace a row with a list of captions by one row per caption, all of one group."""
    found = []
    for row in rows:
        captions = row.get("caption")
        if isinstance(captions, list):
            shared = {**row, "group": row.get("group") or row.get("file")}
            found += [{**shared, "caption": caption} for caption in captions or [None]]
        else:
            found.append(row)
    return found


def require_columns(path: str | Path, columns: Collection[str], needed: Collection[str]) -> None:
    """Raise ValueError if one of the needed columns is missing."""
    if not set(columns) >= set(needed):
        raise wrong_columns(path, columns, ", ".join(needed))


def wrong_columns(path: str | Path, columns: Collection[str], needed: str) -> ValueError:
    """The error for a table without the columns that are needed."""
    hint = ""
    if len(columns) == 1 and ";" in next(iter(columns)):
        hint = "; separate the columns by commas, not by semicolons"
    elif any(column != column.lower() for column in columns):
        hint = "; write column names in lower case"
    found = ", ".join(sorted(columns)) or "none"
    return ValueError(f"{path}: has columns {found}; needs {needed}{hint}")


def parse_text(cell: Any) -> str | None:
    """Return the text of a cell without surrounding whitespace; None for an empty cell."""
    return None if cell is None else str(cell).strip() or None


def parse_number(cell: Any) -> float | None:
    """Return the finite number of 0 or more in a cell; None if there is no such number."""
    try:
        value = float("" if cell is None else cell)
    except (TypeError, ValueError):
        return None
    return value if 0 <= value < math.inf else None
