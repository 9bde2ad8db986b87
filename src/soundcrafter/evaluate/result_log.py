"""A log of results on disk, so that an interrupted measurement can be resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soundcrafter.files import append_json_line, make_folder, read_json_lines, write_text


class ResultLog:
    """Rows by key in a JSON Lines file, whose first line identifies what was measured."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open or create the file. Raises ValueError if it has results of another identity."""
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        head = {"identity": identity}
        make_folder(path.parent)
        lines = read_json_lines(path)
        if lines and lines[0] != json.loads(json.dumps(head)):
            raise ValueError(
                f"{path}: contains results of another model or other settings; "
                "use another folder, or delete it"
            )
        self.rows = {row["key"]: row for row in lines[1:]}
        # rewritten, because the next row must not be appended to an incomplete line
        text = "".join(json.dumps(line) + "\n" for line in (head, *self.rows.values()))
        write_text(path, text)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Append a row and write it to disk."""
        self.rows[key] = {"key": key, **row}
        append_json_line(self.path, self.rows[key])
