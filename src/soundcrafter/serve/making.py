"""From jobs to sounds and their files, with a model that is loaded."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundcrafter.blend import Blend
from soundcrafter.editing import Region
from soundcrafter.files import make_folder
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.request import Prompt
from soundcrafter.scene.compose import compose
from soundcrafter.scene.render import Mix
from soundcrafter.serve.formats import MASTER
from soundcrafter.serve.jobs import Job
from soundcrafter.serve.requests import EDITING, PLAIN, SoundRequest, scene_of
from soundcrafter.sound import Sound
from soundcrafter.timeline import Timeline


@dataclass(frozen=True)
class MadeSound:
    """A sound, and its stems if it was composed."""

    sound: Sound
    mix: Mix | None = None


def make(
    model: SoundCrafter,
    jobs: Sequence[Job],
    uploads: Path,
    *,
    batch_size: int,
    progress: Progress,
) -> dict[str, list[MadeSound]]:
    """Make the sounds of jobs of one shape; `uploads` is the folder of the uploads.

    Raises ValueError for what this model cannot make.
    """
    requests = {job.id: SoundRequest.model_validate(job.request) for job in jobs}
    first = requests[jobs[0].id]
    if len(jobs) == 1:
        scenes = _scenes(model, first)
        if scenes:
            return {jobs[0].id: _composed(model, first, scenes, uploads, batch_size, progress)}
    sounds = _generated(model, [*requests.values()], uploads, batch_size, progress)
    if len(jobs) > 1:
        sounds = [_own_provenance(sound) for sound in sounds]
    each = iter(sounds)
    return {job: [MadeSound(next(each)) for _ in range(first.count)] for job in requests}


def _generated(
    model: SoundCrafter,
    requests: Sequence[SoundRequest],
    uploads: Path,
    batch_size: int,
    progress: Progress,
) -> list[Sound]:
    """Requests of equal options as one call of the model."""
    first = requests[0]
    options: dict[str, Any] = {name: getattr(first, name) for name in (*PLAIN, *EDITING)}
    seconds = first.seconds or model.sampling.seconds
    prompts = [_prompt(request, seconds) for request in requests]
    if prompts[0] is None:  # made from a sound alone
        options |= {"prompts": None, "seed": first.seed, "negative": first.negative}
    else:
        negatives = [r.negative for r in requests if r.negative is not None]
        options |= {"prompts": prompts, "seed": [r.seed for r in requests]}
        options["negative"] = negatives or None
    for name in ("init", "like"):
        given = getattr(first, name)
        options[name] = None if given is None else uploads / f"{given}.wav"
    options["regions"] = [Region(**region.model_dump()) for region in first.regions]
    return model.generate(**options, batch_size=batch_size, progress=progress)


def _prompt(request: SoundRequest, seconds: float) -> Prompt | None:
    """What the model gets for a single sound."""
    if request.mix is not None:
        return Blend.of(request.mix)
    if request.prompt is not None and request.morph_to is not None:
        return Timeline.morph(request.prompt, request.morph_to, seconds)
    return request.prompt


def _scenes(model: SoundCrafter, request: SoundRequest) -> list[tuple[int, Any]]:
    """The seed and the scene of each sound; none if they are single sounds."""
    seeds = [request.seed + k for k in range(request.count)]
    embed = model.clap.embed_text
    found = [(seed, scene_of(request.model_copy(update={"seed": seed}), embed)) for seed in seeds]
    return found if found[0][1] is not None else []


def _composed(
    model: SoundCrafter,
    request: SoundRequest,
    scenes: Sequence[tuple[int, Any]],
    uploads: Path,
    batch_size: int,
    progress: Progress,
) -> list[MadeSound]:
    """Render the scene of each sound."""
    names = ("steps", "guidance", "sampler", "candidates", "negative")
    steering = ("like_weight", "more", "less", "steer")
    options = {name: getattr(request, name) for name in (*names, *steering)}
    options["like"] = None if request.like is None else uploads / f"{request.like}.wav"
    made = []
    for number, (seed, scene) in enumerate(scenes):

        def report(done: int, total: int, number: int = number) -> None:
            progress(round(1000 * (number + done / total)), 1000 * len(scenes))

        prompt = request.prompt or "; ".join(track.name for track in scene.tracks)
        options |= {"folder": uploads, "batch_size": batch_size, "progress": report}
        sound, mix = compose(model, _with_files(scene), prompt, seed, **options)
        made.append(MadeSound(sound, mix))
    return made


def _with_files(scene: Any) -> Any:
    """A scene whose files are the uploads that it names."""
    tracks = [
        replace(
            track,
            events=tuple(
                replace(event, file=f"{event.file}.wav") if event.file else event
                for event in track.events
            ),
        )
        for track in scene.tracks
    ]
    return replace(scene, tracks=tuple(tracks))


def _own_provenance(sound: Sound) -> Sound:
    """A sound whose file says nothing of the other jobs in its batch, which may be someone else's.

    Made again from its file, without the others, it may differ by rounding.
    """
    made = sound.provenance
    assert made is not None
    arguments = dict(made.arguments)
    for name in ("prompts", "negative", "seed"):
        arguments[name] = [arguments[name][made.index]]
    return replace(sound, provenance=replace(made, arguments=arguments, index=0))


def write(made: Sequence[MadeSound], folder: Path) -> dict[str, Any]:
    """Write the sounds of a job and their stems, all or none; returns the job's result.

    Raises ValueError if the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}")
    for place in (partial, folder):  # of a worker that was killed
        shutil.rmtree(place, ignore_errors=True)
    try:
        result = _write(made, make_folder(partial))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return result


def _write(made: Sequence[MadeSound], folder: Path) -> dict[str, Any]:
    """Write the sounds of a job and their stems into an empty folder."""
    facts = []
    for index, (sound, mix) in enumerate((each.sound, each.mix) for each in made):
        sound.save(folder / f"{index}.wav", MASTER)
        fact = {"index": index, "seed": sound.seed, "seconds": sound.seconds}
        facts.append({**fact, "score": sound.score, "loop": sound.loop})
        if mix is not None:
            stems = make_folder(folder / "stems" / str(index))
            for name, wave in mix.stems.items():
                MASTER.write(stems / f"{name}.wav", wave, mix.sample_rate, title=name)
    mix = made[0].mix
    return {"sounds": facts, "stems": [] if mix is None else [*mix.stems]}
