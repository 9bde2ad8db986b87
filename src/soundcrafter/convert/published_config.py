"""The settings in published config files.

Each must be read, have the one value that we support, or be off; any other value would silently
change the sound.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from soundcrafter.files import read_json


class PublishedConfig(dict[str, Any]):
    """The settings of a config file. Looking up a missing key raises ValueError."""

    def __init__(self, file: Path, section: str = "") -> None:
        """Read a JSON file or one section of it."""
        data = read_json(file)
        if section and isinstance(data, dict):
            data = data.get(section)
        if not isinstance(data, dict):
            raise ValueError(f"{file}: expected a table of settings{section and f': {section}'}")
        super().__init__(data)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.file}: {key} is missing")

    def expect(self, fixed: Mapping[str, Any]) -> None:
        """Raise ValueError if a setting is present and has another value than here."""
        for key, value in fixed.items():
            if key in self and self[key] != value:
                raise ValueError(f"{self.file}: {key} is {self[key]!r}; allowed: {value!r}")

    def check_all_known(self, known: Collection[str]) -> None:
        """Raise ValueError for the first setting that is neither known nor off (null, false)."""
        for key, value in self.items():
            if key not in known and not key.startswith("_") and value not in (None, False):
                raise ValueError(f"{self.file}: unknown setting {key} = {value!r}")
