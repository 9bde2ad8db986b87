"""The settings in published config files: each is read, has the one value that we compute, or is
off; any other would change the sound in silence."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from soundcrafter.files import read_json


class Settings(dict[str, Any]):
    """A config file's settings. A key that is asked for and not there is a ValueError."""

    def __init__(self, file: Path, section: str = "") -> None:
        """Read a JSON file, or one section of it."""
        data = read_json(file)
        if section and isinstance(data, dict):
            data = data.get(section)
        if not isinstance(data, dict):
            raise ValueError(f"{file}: expected a table of settings{section and f': {section}'}")
        super().__init__(data)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.file}: has no {key}")

    def expect(self, fixed: Mapping[str, Any]) -> None:
        """ValueError where a setting that is there has another value than here."""
        for key, value in fixed.items():
            if key in self and self[key] != value:
                raise ValueError(f"{self.file}: {key} is {self[key]!r}; allowed: {value!r}")

    def refuse_unknown(self, known: Collection[str]) -> None:
        """ValueError for the first setting that is neither known nor off (null, false)."""
        for key, value in self.items():
            if key not in known and not key.startswith("_") and value not in (None, False):
                raise ValueError(f"{self.file}: unknown setting {key} = {value!r}")
