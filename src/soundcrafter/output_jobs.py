"""The sounds that one call of `generate` makes: planned from prompts, and made in batches."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundcrafter.progress import Progress

if TYPE_CHECKING:  # imported late, so that --help is instant
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.prompt_file import PromptRow
    from soundcrafter.request import Prompt
    from soundcrafter.scene.render import Mix
    from soundcrafter.scene.scene import Scene
    from soundcrafter.scene.text import Embed
    from soundcrafter.sound import Sound
    from soundcrafter.timeline import Timeline

STDOUT = Path("-")
COMPOSE = ("auto", "off", "one-pass")  # what is done with prompts of several events


@dataclass(frozen=True)
class OutputJob:
    """One sound to be made, and the file it is written to."""

    prompt: str
    negative: str | None  # None: the model's default
    seed: int
    options: dict[str, Any]  # for `generate`; jobs with equal options share a batch
    row: int  # of its prompt, from 1
    take: int  # among the sounds of its prompt, from 1
    name: str = ""  # of its file, if the prompt file gives one
    file: Path = STDOUT
    scene: "Scene | None" = None  # if the prompt has several events
    one_pass: bool = False  # make the scene in one pass
    fill: bool = False  # fill the length with more takes
    is_mix: bool = False  # the prompt is a `Blend`
    morph_to: str = ""  # the prompt that the sound turns into


@dataclass(frozen=True)
class Made:
    """A job and its sound."""

    job: OutputJob
    sound: "Sound"
    timeline: "Timeline | None" = None  # of a scene made in one pass
    mix: "Mix | None" = None  # of a composed sound


def plan_jobs(
    rows: "Sequence[PromptRow]",
    options: dict[str, Any],
    source: Path | None,
    *,
    compose: str,
    fill: bool,
    is_mix: bool = False,
    morph_to: str = "",
    first: int = 1,
) -> list[OutputJob]:
    """List every sound, prompt by prompt; `first` is the number of the first prompt.

    `compose`: one of COMPOSE, what is done with prompts of several events. `fill`: sounds fill
    their length with more takes. `is_mix`: prompts are read by `Blend.parse`. `morph_to`: the
    prompt that sounds turn into. Raises ValueError for options that no model supports, naming the
    prompt of the file `source`.
    """
    from soundcrafter.blend import Blend
    from soundcrafter.diffusion.config import SamplingConfig
    from soundcrafter.request import resolve

    jobs = []
    for number, row in enumerate(rows, first):
        own = {**options, **row.options}
        try:
            prompt = Blend.parse(row.prompt) if is_mix else row.prompt
            request = resolve(SamplingConfig(), [prompt], **own)
            if morph_to:
                resolve(SamplingConfig(), morph_to)
        except ValueError as error:
            where = "" if source is None else f"{source}: prompt {number}: "
            raise ValueError(f"{where}{error}") from None
        if fill and own["seconds"] is None:
            raise ValueError("--fill requires --seconds, the length to fill")
        shared = {key: own[key] for key in own if key not in ("seed", "count", "negative")}
        jobs += [
            OutputJob(
                each.text,
                own["negative"],
                each.seed,
                shared,
                number,
                take,
                row.name,
                scene=None
                if compose == "off" or is_mix or morph_to
                else _scene(each.text, own["seconds"], each.seed, fill),
                one_pass=compose == "one-pass",
                fill=fill,
                is_mix=is_mix,
                morph_to=morph_to,
            )
            for take, each in enumerate(request.jobs(), 1)
        ]
    return jobs


def _scene(
    prompt: str, seconds: float | None, seed: int, fill: bool, embed: "Embed | None" = None
) -> "Scene | None":
    """Return the scene of a prompt with several sounds, or None for a single one."""
    from soundcrafter.scene.compose import scene_of_prompt

    return scene_of_prompt(prompt, seconds=seconds, seed=seed, fill=fill, embed=embed)


def run_jobs(
    crafter: "SoundCrafter",
    jobs: Sequence[OutputJob],
    advance: Callable[[float, int], None],
    like: Path | None = None,
) -> Iterator[Made]:
    """Make the sounds of jobs, which resemble the sound `like`; neighbours with the same options
    share batches.

    `advance` is called with (done, total) in sounds; `done` may be fractional.
    """
    done = 0
    # the grammar alone has planned the scenes; now the model says which events are one sound
    jobs = [
        job
        if job.scene is None
        else replace(
            job,
            scene=_scene(
                job.prompt, job.options["seconds"], job.seed, job.fill, crafter.clap.embed_text
            ),
        )
        for job in jobs
    ]

    def report(steps: int, total: int) -> None:
        advance(done + len(batch) * steps / total, len(jobs))

    for batch in _batches(jobs):
        yield from _run(crafter, batch, report, like)
        done += len(batch)


def _batches(jobs: Sequence[OutputJob]) -> Iterator[list[OutputJob]]:
    """Neighbours that one call of the model makes; a composed sound takes a call of its own."""

    def key(job: OutputJob) -> tuple[Any, ...]:
        return job.options, job.negative is None, job.scene is not None and not job.one_pass

    for (*_, composed), group in itertools.groupby(jobs, key=key):
        batch = list(group)
        yield from [[job] for job in batch] if composed else [batch]


def _run(
    crafter: "SoundCrafter", jobs: Sequence[OutputJob], progress: Progress, like: Path | None
) -> Iterator[Made]:
    if jobs[0].scene is not None and not jobs[0].one_pass:
        yield _compose(crafter, jobs[0], jobs[0].scene, progress, like)
        return
    from soundcrafter.scene.plan import scene_timeline

    given: dict[str, Any] = {} if like is None else {"like": like}
    negatives = [job.negative for job in jobs if job.negative is not None]
    seconds = jobs[0].options["seconds"] or crafter.sampling.seconds
    timelines = [None if job.scene is None else scene_timeline(job.scene, seconds) for job in jobs]
    sounds = crafter.stream(
        [timeline or _prompt(job, seconds) for timeline, job in zip(timelines, jobs, strict=True)],
        seed=[job.seed for job in jobs],
        negative=negatives or None,
        **jobs[0].options,
        **given,
        progress=progress,
    )
    for job, sound, timeline in zip(jobs, sounds, timelines, strict=True):
        yield Made(job, sound, timeline)


def _prompt(job: OutputJob, seconds: float) -> "Prompt":
    """What the model gets for a single sound."""
    from soundcrafter.blend import Blend
    from soundcrafter.timeline import Timeline

    if job.morph_to:
        return Timeline.morph(job.prompt, job.morph_to, seconds)
    return Blend.parse(job.prompt) if job.is_mix else job.prompt


def _compose(
    crafter: "SoundCrafter",
    job: OutputJob,
    scene: "Scene",
    progress: Progress,
    like: Path | None,
) -> Made:
    from soundcrafter.scene.compose import compose

    # the scene has its length, and its sounds are always trimmed
    options = {key: job.options[key] for key in job.options if key not in ("seconds", "trim")}
    options |= {"negative": job.negative, "like": like}
    sound, mix = compose(crafter, scene, job.prompt, job.seed, progress=progress, **options)
    return Made(job, sound, mix=mix)
