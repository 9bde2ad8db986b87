"""Make a sound again from its provenance, unchanged or with other options."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundcrafter.arguments import audio_from, find_file, prompt_from, regions_from
from soundcrafter.diffusion.sample import SamplingConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.scene.render import Mix, render
from soundcrafter.scene.scene import Scene
from soundcrafter.settings import from_dict
from soundcrafter.sound import Sound


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
    given = _arguments(model, made, folder)
    if "noise" in given:
        raise ValueError("noise: was given in memory, so this sound cannot be made again")
    prompts, seeds = given.pop("prompts"), given.pop("seed")
    negatives, index = given.pop("negative"), made.index
    if changes:
        prompts = None if prompts is None else [prompts[index]]
        seeds, negatives, index = [seeds[index]], [negatives[index]], 0
    if prompts is None:  # the sounds of a given one differ in their seeds, which follow each other
        given |= {"count": len(seeds), "seed": seeds[0], "negative": negatives[0]}
    else:
        given |= {
            "prompts": [prompt_from(prompt) for prompt in prompts],
            "seed": seeds,
            "negative": negatives,
        }
    given |= {"batch_size": len(seeds), "seconds": made.sampling["seconds"], **changes}
    given["regions"] = regions_from(given.get("regions", ()))
    return _as_then(model, made).generate(progress=progress, **given)[index]


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
    recorded = made.arguments
    scene = from_dict(Scene, recorded["scene"], "scene")
    for name in ("seed", "seconds"):
        if name in changes:
            scene = replace(scene, **{name: changes.pop(name)})
    options = _arguments(model, replace(made, arguments=recorded["options"]), folder) | changes
    return render(
        scene,
        _as_then(model, made),
        folder=_scene_folder(recorded["files"], folder),
        seconds=recorded["seconds"],
        progress=progress,
        **options,
    )


def _arguments(model: SoundCrafter, made: Provenance, folder: Path | None) -> dict[str, Any]:
    """The recorded arguments, with the sounds that were given in them."""

    def again(source: Provenance) -> Sound:
        check_model(model, source)
        return remake(model, source, folder=folder)

    given = dict(made.arguments)
    for name in ("init", "like"):
        if name in given:
            given[name] = audio_from(given[name], name, _folders(folder), again)
    return given


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
