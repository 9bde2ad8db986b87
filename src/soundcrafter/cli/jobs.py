"""The sounds that one call of `generate` makes, and their output files."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundcrafter.filenames import MAX_BYTES
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
    from soundcrafter.ucs import UcsNaming

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
) -> list[OutputJob]:
    """List every sound, prompt by prompt.

    `compose`: one of COMPOSE, what is done with prompts of several events. `fill`: sounds fill
    their length with more takes. `is_mix`: prompts are read by `Blend.parse`. `morph_to`: the
    prompt that sounds turn into. Raises ValueError for options that no model supports, naming the
    prompt of the file `source`.
    """
    from soundcrafter.blend import Blend
    from soundcrafter.diffusion.config import SamplingConfig
    from soundcrafter.request import resolve

    jobs = []
    for number, row in enumerate(rows, 1):
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


def check_pipe(jobs: Sequence[OutputJob], others: Sequence[str]) -> None:
    """Raise ValueError unless a pipe can take the output: exactly one wav file."""
    if len(jobs) != 1:
        raise ValueError(
            f"output: '-' (stdout) accepts exactly one sound, got {len(jobs)}; name a folder"
        )
    if others:
        raise ValueError(f"output: '-' cannot be combined with {', '.join(others)}")
    if sys.stdout is None:
        raise ValueError("output: '-' is closed; redirect it to a file or a pipe")
    if os.isatty(1):
        raise ValueError("output: '-' is a terminal; redirect it to a file or a pipe")


def assign_files(
    jobs: Sequence[OutputJob],
    output: Path | None,
    template: str | None,
    *,
    overwrite: bool,
    skip_existing: bool,
    plot: bool,
    ucs: "UcsNaming | None" = None,
) -> list[OutputJob]:
    """Assign a file to each job and drop those to skip; nothing is made yet.

    `output` is a file, numbered if there are several sounds, or a folder, which may not exist yet.
    An explicitly named file is overwritten; in a folder, names that exist get a number, unless they
    are overwritten or skipped. `ucs` gives names of the Universal Category System in place of the
    `template`. Raises ValueError for a file that cannot be written.
    """
    from soundcrafter.filenames import free_path

    if template is not None and ucs is not None:
        raise ValueError("--name and --ucs cannot be combined")
    if overwrite and skip_existing:
        raise ValueError("--overwrite and --skip-existing cannot be combined")
    named = output is not None and output.suffix != "" and not output.is_dir()
    if output is not None and named:
        if template is not None:
            raise ValueError(f"name: {output} is a file; --name needs a folder as --output")
        if ucs is not None:
            raise ValueError(f"ucs: {output} is a file; --ucs needs a folder as --output")
        files = _numbered(output, len(jobs))
    else:
        folder, width = output or Path(), len(str(jobs[-1].row))
        several = len({job.row for job in jobs}) > 1
        files = [
            folder / f"{_file_name(job, template, index, width if several else 0, ucs)}.wav"
            for index, job in enumerate(jobs, 1)
        ]
    assigned: list[OutputJob] = []
    taken: set[Path] = set()
    for job, file in zip(jobs, files, strict=True):
        on_disk = not (named or overwrite or skip_existing)
        file = free_path(
            file,
            taken,
            on_disk=on_disk,
            suffixes=[".png"] if plot else [],
            mark="-" if ucs is None else "v",  # UCS reserves "-"
        )
        taken.add(file)
        if not (skip_existing and file.is_file()):
            assigned.append(replace(job, file=file))
    for job in assigned:
        check_target(job.file, plot=plot, may_be_new=not named)
    return assigned


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    width = len(str(count))
    return [
        output.with_name(f"{output.stem}-{number:0{width}d}{output.suffix}")
        for number in range(1, count + 1)
    ]


def _file_name(
    job: OutputJob, template: str | None, index: int, width: int, ucs: "UcsNaming | None"
) -> str:
    """Build a file name without its suffix. `width`: digits of the prompt's number; 0: none."""
    from soundcrafter.filenames import check_name, expand_name, slug

    if ucs is not None:
        return ucs.name(job.prompt, job.seed, job.name)
    if template is None:
        # a user-given name is kept as it is
        number = f"{job.row:0{width}d}-" if width and not job.name else ""
        template = f"{number}{{name}}" + ("" if job.name and job.take == 1 else "-{seed}")
    name = job.name or slug(job.prompt)
    if job.name:
        check_name(job.name)
    return expand_name(
        template, index=index, name=name, slug=slug(job.prompt), seed=job.seed, take=job.take
    )


def check_target(file: Path, *, plot: bool = False, may_be_new: bool = False) -> None:
    """Raise ValueError if a sound, or with `plot` its picture, cannot be written to a file.

    `may_be_new`: its folder may be created.
    """
    from soundcrafter.audio import check_write_suffix

    try:
        check_write_suffix(file.suffix)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for target in (file, file.with_suffix(".png")) if plot else (file,):
        if os.path.lexists(target) and not target.is_file():
            raise ValueError(f"{target}: cannot write: it exists and is not a file")
    if len(file.name.encode(errors="replace")) > MAX_BYTES:
        raise ValueError(f"{file}: cannot write: the name has more than {MAX_BYTES} bytes")
    folder = file.parent
    if may_be_new:  # needs an existing ancestor
        folder = next(place for place in file.absolute().parents if place.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{folder}: the folder does not exist or is not writable")
