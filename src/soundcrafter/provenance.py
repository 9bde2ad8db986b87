"""How a sound was made: kept with it, written into its file, enough to make it again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from soundcrafter.audio import audio_comments
from soundcrafter.files import read_json
from soundcrafter.settings import from_dict, to_dict
from soundcrafter.version import __version__

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The call that made a sound, as plain data for JSON."""

    model: str  # "bundled", a hub name, or a folder
    parts: Mapping[str, str]  # training ids of its parts and adapters
    sampling: Mapping[str, Any]  # `SamplingConfig`
    # The other arguments of `SoundCrafter.generate`, for all sounds of the batch, because the batch
    # changes rounding; or of `render`.
    arguments: Mapping[str, Any]
    precision: str  # "fp32", "bf16" or "fp16"
    call: Literal["generate", "render"] = "generate"
    index: int = 0  # of the sound in its batch
    adapters: Mapping[str, float] = field(default_factory=dict)  # folder -> weight
    export: Mapping[str, Any] = field(default_factory=dict)  # `Export`, in a file
    soundcrafter: str = __version__  # version that made it
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format > FORMAT:
            raise ValueError(
                f"format: got {self.format}, written by SoundCrafter {self.soundcrafter}; "
                f"this version reads up to {FORMAT}"
            )

    def to_json(self) -> str:
        """One line of ASCII, which every file format can hold."""
        return json.dumps(to_dict(self))

    def with_export(self, export: Any) -> "Provenance":
        """The same with the format of its file, a dataclass."""
        return replace(self, export=to_dict(export))


def read_provenance(path: str | os.PathLike[str]) -> Provenance:
    """Read the provenance inside a sound file, or from a JSON file.

    Raises ValueError for a file that cannot be read or has none, and for a newer format.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ValueError(f"{path}: is not a file")
        return _from_data(read_json(path), path)
    for comment in audio_comments(path):
        try:
            data = json.loads(comment)
        except (ValueError, RecursionError):  # another program's comment
            continue
        if isinstance(data, dict) and "soundcrafter" in data:
            return _from_data(data, path)
    raise ValueError(f"{path}: does not say how it was made: no metadata of SoundCrafter")


def _from_data(data: Any, path: Path) -> Provenance:
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        # a newer format may have other settings, so the strict reader's message would mislead
        data = {name: data[name] for name in data if name in Provenance.__dataclass_fields__}
    try:
        return from_dict(Provenance, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
