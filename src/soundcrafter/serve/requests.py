"""What clients send and get, as JSON, and how a request becomes a job."""

import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from soundcrafter.blend import Blend
from soundcrafter.diffusion.config import MAX_SEED, SamplingConfig
from soundcrafter.diffusion.samplers import SAMPLERS
from soundcrafter.editing import Region
from soundcrafter.request import RANDOM_SEED, resolve
from soundcrafter.scene.compose import scene_of_prompt
from soundcrafter.scene.plan import plan_takes
from soundcrafter.scene.scene import Scene, Track
from soundcrafter.serve.jobs import Job, NewJob
from soundcrafter.serve.settings import ServeSettings
from soundcrafter.settings import from_dict, to_dict

MAX_TEXT = 2000  # characters of a description
MAX_CANDIDATES = 16
# Options of `SoundCrafter.generate` that a request passes on as they are.
PLAIN = ("seconds", "count", "steps", "guidance", "sampler", "candidates", "trim", "loop")
EDITING = ("strength", "at", "like_weight", "more", "less", "steer")
EXAMPLES: list[Any] = [
    {"prompt": "heavy rain on a tin roof", "seconds": 5, "seed": 7},
    {"prompt": "a door slams, then a dog barks", "seconds": 6, "count": 2},
    {"mix": {"rain": 0.7, "fire crackling": 0.3}, "seconds": 4, "loop": True},
]

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
UploadId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]


class RegionModel(BaseModel):
    """A part of `init` to regenerate: seconds, and Hz if only some frequencies."""

    model_config = ConfigDict(extra="forbid")
    start: float = Field(ge=0, le=600, examples=[2.0])
    end: float = Field(gt=0, le=600, examples=[3.5])
    low: float = Field(0.0, ge=0, le=100_000)
    high: float | None = Field(None, gt=0, le=100_000)


class SoundRequest(BaseModel):
    """What to make. Options are those of `SoundCrafter.generate`; null: the model's default."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": EXAMPLES}
    )
    prompt: Text | None = Field(None, description="Description of the sound.")
    mix: dict[str, float] | None = Field(
        None, max_length=16, description="Instead of a prompt: descriptions and their weights."
    )
    morph_to: Text | None = Field(None, description="Description that the sound turns into.")
    seconds: float | None = Field(None, ge=0.2, le=600, description="Length.")
    count: int = Field(1, ge=1, le=10_000, description="Sounds; sound k has seed + k.")
    seed: int = Field(RANDOM_SEED, ge=RANDOM_SEED, le=MAX_SEED, description="-1: random.")
    steps: int | None = Field(None, ge=1, le=10_000, description="Sampling steps.")
    guidance: float | None = Field(None, ge=0, le=100)
    negative: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None, description="Description of sounds to avoid."
    )
    sampler: str | None = Field(None, json_schema_extra={"enum": [*SAMPLERS, None]})
    candidates: int | None = Field(None, ge=1, le=MAX_CANDIDATES)
    trim: bool | None = Field(None, description="Cut the silence before and after the sound.")
    loop: bool = Field(False, description="Make the end of the sound lead into its start.")
    more: list[Text] = Field([], max_length=8, description="Descriptions to move towards.")
    less: list[Text] = Field([], max_length=8, description="Descriptions to move away from.")
    steer: float | None = Field(None, ge=0, le=10)
    compose: Literal["auto", "off"] = Field(
        "auto", description="auto: the events of a prompt are made one by one and mixed."
    )
    init: UploadId | None = Field(None, description="Upload to edit.")
    strength: float | None = Field(None, ge=0, le=1)
    regions: list[RegionModel] = Field([], max_length=16)
    at: float | None = Field(None, ge=0, le=600)
    like: UploadId | None = Field(None, description="Upload to resemble.")
    like_weight: float | None = Field(None, ge=0, le=1)
    scene: dict[str, Any] | None = Field(
        None, description="Instead of a prompt: a scene, as `soundcrafter scene` reads it."
    )
    wait: bool = Field(
        False, description="Answer when it is done: with the audio if it is one sound."
    )


class SoundView(BaseModel):
    """A sound that was made."""

    index: int
    seed: int
    seconds: float
    score: float | None = Field(description="Similarity to the prompt, -1 to 1 (CLAP).")
    url: str


class JobView(BaseModel):
    """A job and how far it is."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float = Field(ge=0, le=1)
    prompt: str
    seeds: list[int]
    created: float = Field(description="Seconds since 1970.")
    favourite: bool
    error: str | None
    sounds: list[SoundView]
    stems: list[str] = Field(description="Tracks of a composed sound.")


class JobPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="`before` of the next page; null on the last.")


class Favourite(BaseModel):
    """What of a job can be changed."""

    model_config = ConfigDict(extra="forbid")
    favourite: bool


class Upload(BaseModel):
    """A sound that was uploaded."""

    id: str
    seconds: float
    sample_rate: int


class Error(BaseModel):
    """Why a request was refused, in one line."""

    error: str


def view(job: Job) -> JobView:
    """A job as clients see it."""
    result = job.result or {}
    return JobView(
        id=job.id,
        state=job.state,
        progress=job.progress,
        prompt=job.prompt,
        seeds=[job.request["seed"] + k for k in range(job.request["count"])],
        created=job.created,
        favourite=job.favourite,
        error=job.error,
        sounds=[
            SoundView(
                **{name: sound[name] for name in ("index", "seed", "seconds", "score")},
                url=f"/v1/sounds/{job.id}/audio?index={sound['index']}",
            )
            for sound in result.get("sounds", ())
        ],
        stems=result.get("stems", []),
    )


def new_job(
    request: SoundRequest,
    settings: ServeSettings,
    upload: Callable[[str], Path | None],
    *,
    origin: str = "api",
) -> NewJob:
    """Check a request as far as possible without a model, and make it complete: with its seeds.

    `upload` finds the file of an upload. Raises ValueError, saying what is allowed.
    """
    _check_limits(request, settings)
    _check_uploads(request, upload)
    if request.scene is not None:
        return _scene_job(request, settings, upload, origin)
    seed = secrets.randbits(32) if request.seed == RANDOM_SEED else request.seed
    complete = request.model_copy(update={"seed": seed})
    _check_prompt(complete)
    scene = scene_of(complete)
    if scene is not None:
        _check_scene(scene, settings, complete.count)
    return NewJob(
        request=complete.model_dump(exclude={"wait"}, exclude_defaults=True)
        | {"seed": seed, "count": complete.count},
        prompt=_words(complete),
        shape=None if scene is not None else _shape(complete),
        sounds=complete.count,
        origin=origin,
    )


def scene_of(request: SoundRequest, embed: Any = None) -> Scene | None:
    """The scene of a request; None for a single sound. `embed` joins events that sound the same."""
    if request.scene is not None:
        return from_dict(Scene, request.scene, "scene")
    single = request.mix or request.morph_to or request.init or request.loop
    if request.prompt is None or single or request.compose == "off":
        return None
    return scene_of_prompt(request.prompt, seconds=request.seconds, seed=request.seed, embed=embed)


def _check_limits(request: SoundRequest, settings: ServeSettings) -> None:
    for name in ("seconds", "steps", "count"):
        value, most = getattr(request, name), getattr(settings, f"max_{name}")
        if value is not None and value > most:
            raise ValueError(f"{name}: got {value:g}; this server allows up to {most:g}")
    if request.at is not None and request.at > settings.max_seconds:
        raise ValueError(f"at: got {request.at:g}; allowed: up to {settings.max_seconds:g}")


def _check_uploads(request: SoundRequest, upload: Callable[[str], Path | None]) -> None:
    for name in ("init", "like"):
        given = getattr(request, name)
        if given is not None and upload(given) is None:
            raise ValueError(f"{name}: there is no upload {given}")
    edits = request.strength is not None or request.at is not None or request.regions
    if edits and request.init is None:
        raise ValueError("strength, at and regions: require a sound to edit, init")
    if request.like_weight is not None and request.like is None:
        raise ValueError("like_weight: requires a sound to resemble, like")
    if request.steer is not None and not (request.more or request.less):
        raise ValueError("steer: requires descriptions, more or less")


def _check_prompt(request: SoundRequest) -> None:
    """Raise ValueError for what no model can make."""
    if request.mix is not None and (request.prompt or request.morph_to):
        raise ValueError("mix: cannot be combined with prompt and morph_to")
    if request.morph_to and not request.prompt:
        raise ValueError("morph_to: requires a prompt to begin with")
    prompt: Any = Blend.of(request.mix) if request.mix is not None else request.prompt
    wordless = prompt is None and (request.init or request.like)
    if prompt is None and not wordless:
        raise ValueError("prompt: must not be empty; describe the sound")
    options = {name: getattr(request, name) for name in (*PLAIN, *EDITING)}
    resolve(
        SamplingConfig(),
        prompt,
        seed=request.seed,
        negative=request.negative,
        wordless=bool(wordless),
        **{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()},
    )
    if request.morph_to:
        resolve(SamplingConfig(), request.morph_to)
    for region in request.regions:
        Region(**region.model_dump())
    if request.trim is not None and scene_of(request) is not None:
        raise ValueError("trim: requires a single event in the prompt, or compose: off")


def _scene_job(
    request: SoundRequest,
    settings: ServeSettings,
    upload: Callable[[str], Path | None],
    origin: str,
) -> NewJob:
    """A job for a scene that the client wrote."""
    allowed = {"scene", "steps", "guidance", "negative", "sampler", "candidates", "wait", "count"}
    given = request.model_fields_set - allowed
    others = [name for name in sorted(given) if getattr(request, name) not in (RANDOM_SEED, None)]
    if others or request.count != 1:
        named = others[0] if others else "count"
        raise ValueError(f"{named}: cannot be combined with a scene, which sets its own")
    scene = scene_of(request)
    assert scene is not None
    for track in scene.tracks:
        for event in track.events:
            if event.file and upload(event.file) is None:
                raise ValueError(f"{track.name}: file: there is no upload {event.file}")
    _check_scene(scene, settings, 1)
    options = {name: getattr(request, name) for name in PLAIN if name != "count"}
    prompts = [e.prompt for t in scene.tracks for e in t.events if e.prompt]
    resolve(SamplingConfig(), prompts or ["recordings"], negative=request.negative, **options)
    return NewJob(
        request=request.model_dump(exclude={"wait"}, exclude_defaults=True)
        | {"scene": to_dict(scene), "seed": scene.seed, "count": 1},
        prompt="; ".join(_track_words(track) for track in scene.tracks),
        origin=origin,
    )


def _track_words(track: Track) -> str:
    """The first sound of a track in words; the track's name if it is a recording."""
    return next((event.prompt for event in track.events if event.prompt), track.name)


def _check_scene(scene: Scene, settings: ServeSettings, count: int) -> None:
    """Raise ValueError for a scene that takes more work than the largest single request."""
    if scene.seconds is not None and scene.seconds > settings.max_seconds:
        raise ValueError(
            f"seconds: got {scene.seconds:g}; this server allows up to {settings.max_seconds:g}"
        )
    takes = plan_takes(scene, SamplingConfig().seconds)
    total = math.fsum(take.length for take in takes)
    if scene.seconds is None:
        events = [event for track in scene.tracks for event in track.events]
        pauses = (e.start + e.earliest + e.jitter + (e.interval or 0) * e.repeats for e in events)
        longest = total + math.fsum(pauses)
        if longest > settings.max_seconds or any(event.file for event in events):
            raise ValueError("seconds: give the length of a scene that is long or has files")
    most, total = settings.max_seconds * settings.max_count, count * total
    if total > most:
        raise ValueError(
            f"scene: its takes are {total:g} s long in all; this server allows up to {most:g}"
        )


def _words(request: SoundRequest) -> str:
    """The prompt of a request in words."""
    if request.mix is not None:
        return str(Blend.of(request.mix))
    return f"{request.prompt} > {request.morph_to}" if request.morph_to else request.prompt or ""


def _shape(request: SoundRequest) -> str | None:
    """Requests of equal shape are one call of the model, with a list of prompts and seeds."""
    if request.prompt is None and request.mix is None:  # made from a sound alone
        return None
    fields: Sequence[str] = ("prompt", "mix", "morph_to", "seed", "negative", "wait")
    options = request.model_dump_json(exclude={*fields})
    return f"{options} {request.negative is None}"
