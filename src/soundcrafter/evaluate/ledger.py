"""Results written line by line, so that a long measurement goes on where it was killed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soundcrafter.files import make_folder, write_text

Row = dict[str, Any]


class Ledger:
    """Rows by key in a jsonl file whose first line says what they are results of."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open or begin a file. Raises ValueError where it holds results of another identity."""
        self.path = path
        self.rows: dict[str, Row] = {}
        head = json.dumps({"identity": identity})
        make_folder(path.parent)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines and lines[0] != head:
            raise ValueError(
                f"{path}: holds results of another model or other settings; "
                "use another folder, or remove it"
            )
        kept = [head]
        for line in lines[1:]:
            try:
                row = json.loads(line)
            except ValueError:  # the line that a kill cut short
                continue
            self.rows[row["key"]] = row
            kept.append(line)
        write_text(path, "\n".join(kept) + "\n")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Append a row; it is on disk when this returns."""
        self.rows[key] = {"key": key, **row}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.rows[key]) + "\n")
