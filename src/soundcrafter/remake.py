"""Make a sound again from its provenance, unchanged or with other options."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundcrafter.arguments import (
    audio_from,
    check_recorded,
    find_file,
    prompt_from,
    recorded_call,
)
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.editing import Audio
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.scene.render import Mix, render
from soundcrafter.scene.scene import Scene
from soundcrafter.settings import from_dict
from soundcrafter.sound import Sound

_PASSED_ON = ("trim", "strength", "at", "loop", "like_weight", "more", "less", "steer", "regions")
_RENDER_OPTIONS = (  # that a scene leaves to each of its sounds
    *("steps", "guidance", "negative", "sampler", "candidates", "draft_steps", "masked", "reuse"),
    *("batch_size", "loop", "init", "strength", "at", "like", "like_weight", "more", "less"),
    "steer",
)


@dataclass(frozen=True, kw_only=True)
class RecordedRender:
    """What was recorded of a call of `render`."""

    scene: Scene
    seconds: float | None
    files: Mapping[str, str]  # of the scene, and their sha256
    options: Mapping[str, Any]  # of `generate`


def recorded_render(made: Provenance) -> RecordedRender:
    """Read the arguments of a call of `render` strictly. Raises ValueError for other arguments."""
    found = from_dict(RecordedRender, made.arguments, "arguments")
    check_recorded(made, found.options)
    return found


def check_model(model: SoundCrafter, made: Provenance) -> None:
    """Raise ValueError unless the sound was made by this model and these adapters."""
    there, here = dict(made.parts), dict(model.training_ids)
    for name in there | here:
        if there.get(name) != here.get(name):
            raise ValueError(
                f"model: the sound was made by {made.model!r} with {name} {there.get(name)}; "
                f"{model.name!r} has {here.get(name)}"
            )


def remake(
    model: SoundCrafter,
    made: Provenance,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Sound:
    """Make a sound again with `SoundCrafter.generate`.

    Without `changes` its samples are the same on the same machine with the same number of threads:
    the sounds of its batch are made too. With changes, arguments of `generate` that replace its
    own, it is made alone. Files that it was made from are looked for in the working folder and in
    `folder`. Raises ValueError as `generate`, for one that is missing or changed, and for a sound
    that was made from samples in memory.
    """
    if made.call != "generate":
        raise ValueError("provenance: of a scene; see remake_mix")
    call = recorded_call(made)
    if call.noise is not None:
        raise ValueError("noise: was given in memory, so this sound cannot be made again")
    then, index = _as_then(model, made), made.index
    wanted = slice(index, index + 1) if changes else slice(None)
    seeds = call.seed[wanted]
    given: dict[str, Any] = {name: getattr(call, name) for name in _PASSED_ON}
    given |= {"batch_size": len(seeds), "seconds": then.sampling.seconds}
    given |= _sources(model, {"init": call.init, "like": call.like}, folder)
    if call.prompts is None:  # a given sound's differ in their seeds, which follow each other
        given |= {"count": len(seeds), "seed": seeds[0], "negative": call.negative[index]}
    else:
        given |= {
            "prompts": [prompt_from(prompt) for prompt in call.prompts[wanted]],
            "seed": seeds,
            "negative": call.negative[wanted],
        }
    if "mix" in changes:
        given["prompts"] = None  # which it replaces
    sounds = then.generate(progress=progress, **(given | changes))
    return sounds[0 if changes else index]


def remake_mix(
    model: SoundCrafter,
    made: Provenance,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Mix:
    """Render a scene again, as `remake` does a sound.

    `changes` are options of `render`, and `seed` and `seconds` of the scene.
    """
    if made.call != "render":
        raise ValueError("provenance: of a single sound; see remake")
    call = recorded_render(made)
    _check_names(call.options)
    changed = {name: changes.pop(name) for name in ("seed", "seconds") if name in changes}
    _check_names(changes)
    options = {**call.options, **_sources(model, call.options, folder)}
    return render(
        replace(call.scene, **changed),
        _as_then(model, made),
        folder=_scene_folder(call.files, folder),
        seconds=call.seconds,
        progress=progress,
        **(options | changes),
    )


def _check_names(options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that `render` does not pass on to `generate`."""
    for name in options:
        if name not in _RENDER_OPTIONS or (name == "loop" and options[name]):
            changeable = [each for each in _RENDER_OPTIONS if each != "loop"]  # recorded if False
            allowed = ", ".join(["seed", "seconds", *changeable])
            raise ValueError(f"{name}: not an option of a scene; allowed: {allowed}")


def _sources(
    model: SoundCrafter, recorded: Mapping[str, Any], folder: Path | None
) -> dict[str, Audio]:
    """The sounds that were given, by their names."""

    def again(source: Provenance) -> Sound:
        check_model(model, source)
        return remake(model, source, folder=folder)

    return {
        name: audio_from(recorded[name], name, _folders(folder), again)
        for name in ("init", "like")
        if recorded.get(name) is not None
    }


def _scene_folder(files: Mapping[str, str], folder: Path | None) -> Path | None:
    """The folder with these files, given their sha256. Raises ValueError as `find_file`."""
    found = {
        find_file({"file": name, "sha256": digest}, "scene", _folders(folder))
        for name, digest in files.items()
    }
    inside = [place for place in _folders(folder) if all(place in file.parents for file in found)]
    return next((place for place in inside if place != Path()), folder)


def _as_then(model: SoundCrafter, made: Provenance) -> SoundCrafter:
    """The model with the defaults that it had."""
    then = copy.copy(model)
    then.sampling = from_dict(SamplingConfig, made.sampling, "sampling")
    return then


def _folders(folder: Path | None) -> Mapping[Path, None]:
    """Where files may lie, in order and each once."""
    return dict.fromkeys([Path(), folder or Path()])
