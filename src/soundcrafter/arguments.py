"""Arguments of `generate` as plain data for JSON, and back."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.blend import Blend
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.editing import Audio, Region
from soundcrafter.files import file_sha256
from soundcrafter.provenance import Provenance
from soundcrafter.request import GenerateRequest, Job, Prompt
from soundcrafter.settings import from_dict, to_dict
from soundcrafter.sound import Sound
from soundcrafter.timeline import Timeline

_OPTIONS = ("strength", "at", "loop", "like_weight", "more", "less", "steer")
_DEFAULTS = {field.name: field.default for field in fields(GenerateRequest)}
MAX_EDITS = 100  # sounds made one from another that are recorded and made again


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """What `plain_request`, `plain_audio` and `plain_array` recorded of a call of `generate`."""

    prompts: tuple[Any, ...] | None  # see `plain_prompt`; None: the prompt was a sound
    negative: tuple[str, ...]
    seed: tuple[int, ...]
    trim: bool
    strength: float | None = None
    at: float | None = None
    loop: bool = False
    like_weight: float | None = None
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    steer: float | None = None
    init: Mapping[str, Any] | None = None
    like: Mapping[str, Any] | None = None
    regions: tuple[Region, ...] = ()
    noise: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        lengths = [
            len(each) for each in (self.prompts, self.negative, self.seed) if each is not None
        ]
        if 0 in lengths or len(set(lengths)) > 1:
            raise ValueError(f"prompts, negative, seed: got {lengths} of them; allowed: one each")
        if min(self.seed) < 0:
            raise ValueError(f"seed: got {min(self.seed)}; allowed: 0 or more")


def recorded_call(made: Provenance) -> RecordedCall:
    """Read the arguments of a call of `generate` strictly.

    Raises ValueError for other arguments, and where the sound is none of the call's.
    """
    check_recorded(made, made.arguments)
    found = from_dict(RecordedCall, made.arguments, "arguments")
    if not 0 <= made.index < len(found.seed):
        raise ValueError(f"index: got {made.index}; allowed: 0 to {len(found.seed) - 1}")
    return found


def check_recorded(made: Provenance, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that are not allowed, and for too many edits."""
    from_dict(SamplingConfig, made.sampling, "sampling")
    if edits_before(arguments) > MAX_EDITS:
        raise ValueError(f"arguments: more than {MAX_EDITS} sounds were made one from another")


def plain_sampling(request: GenerateRequest) -> dict[str, Any]:
    """The settings of a request that a model has defaults for."""
    names = [field.name for field in fields(SamplingConfig)]
    return {name: getattr(request, name) for name in names}


def plain_request(request: GenerateRequest, jobs: Sequence[Job]) -> dict[str, Any]:
    """The other arguments of `generate` for these jobs; most defaults are left out."""
    own = {name: getattr(request, name) for name in _OPTIONS}
    changed = {name: value for name, value in own.items() if value != _DEFAULTS[name]}
    return {
        "prompts": None if request.wordless else [plain_prompt(job.prompt) for job in jobs],
        "negative": [job.negative for job in jobs],
        "seed": [job.seed for job in jobs],
        "trim": request.trim,
        **changed,
    }


def plain_prompt(prompt: Prompt) -> Any:
    """A prompt for JSON: a string, or a table of its spans or weights."""
    if isinstance(prompt, Timeline):
        return to_dict(prompt)
    return {"mix": dict(prompt.parts)} if isinstance(prompt, Blend) else prompt


def prompt_from(data: Any) -> Prompt:
    """The inverse of `plain_prompt`. Raises ValueError for anything else."""
    if isinstance(data, str):
        return data
    if isinstance(data, Mapping) and "mix" in data:
        return Blend.of(data["mix"])
    return from_dict(Timeline, data, "prompt")


def plain_audio(audio: Audio) -> dict[str, Any]:
    """What is known of a given sound: its file, or how it was made, or only its samples' sha256.

    A file is named as it was given, or by its name alone if the path is absolute, so that no folder
    of this machine is published with a sound.
    """
    if isinstance(audio, str | os.PathLike):
        return plain_file(audio)
    if not isinstance(audio, Sound):
        return plain_array(audio[0])
    made = audio.provenance
    if made is None or edits_before(made.arguments) >= MAX_EDITS:
        return plain_array(audio.wave)
    return {"made": to_dict(made)}


def edits_before(arguments: Any) -> int:
    """How many sounds were made one from another before the one with these recorded arguments."""
    level, count = [arguments], -1
    while level:
        found = [each.get(name) for each in level for name in ("init", "like")]
        made = [each["made"] for each in found if isinstance(each, Mapping) and "made" in each]
        level = [each.get("arguments") for each in made if isinstance(each, Mapping)]
        level = [each for each in level if isinstance(each, Mapping)]
        count += 1
    return count


def plain_array(array: np.ndarray) -> dict[str, Any]:
    """The sha256 of an array, which identifies it but cannot bring it back."""
    return {"samples": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def plain_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file's name and sha256."""
    return {"file": portable_name(path), "sha256": file_sha256(Path(path))}


def portable_name(path: str | os.PathLike[str]) -> str:
    """A path without the folders of this machine: as given, or the last part if it is absolute."""
    return Path(path).name if Path(path).is_absolute() else str(path)


def audio_from(
    data: Any, name: str, folders: Iterable[Path], make: Callable[[Provenance], Sound]
) -> Audio:
    """The inverse of `plain_audio`: files are looked for in `folders`, `make` makes sounds again.

    Raises ValueError for a sound that was given in memory, and a file that is missing or changed.
    """
    if isinstance(data, Mapping) and "made" in data:
        return make(from_dict(Provenance, data["made"], name))
    if isinstance(data, Mapping) and "file" in data:
        return find_file(data, name, folders)
    raise ValueError(f"{name}: was given in memory, so this sound cannot be made again")


def find_file(data: Mapping[str, Any], name: str, folders: Iterable[Path]) -> Path:
    """The file that `plain_file` described, in one of the folders. Raises ValueError as above."""
    file = data["file"]
    if not isinstance(file, str):
        raise ValueError(f"{name}: expected the name of a file, got {file!r}")
    found = [path for path in (folder / file for folder in folders) if path.is_file()]
    for path in found:
        if file_sha256(path) == data.get("sha256"):
            return path
    if found:
        raise ValueError(f"{found[0]}: has changed since the sound was made from it ({name})")
    raise ValueError(f"{file}: no such file; the sound was made from it ({name})")
