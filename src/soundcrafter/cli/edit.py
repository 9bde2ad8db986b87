"""The command that edits a sound: vary, inpaint, extend, loop."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import (
    DepthOption,
    DeviceOption,
    JsonFlag,
    LessOption,
    LikeOption,
    LikeWeightOption,
    LufsOption,
    MetadataFlag,
    MoreOption,
    PrecisionOption,
    RateOption,
    SidecarFlag,
    SteerOption,
    StereoFlag,
    UcsCreatorOption,
    UcsOption,
    UcsSourceOption,
    export_of,
    progress,
    ucs_naming,
)
from soundcrafter.cli.jobs import assign_files
from soundcrafter.output import write_sound
from soundcrafter.output_jobs import OutputJob

LEAST_ADDED = 0.05  # seconds


def edit(
    sound: Annotated[Path, typer.Argument(help="Sound file: any rate, mono or stereo.")],
    prompt: Annotated[
        str | None,
        typer.Argument(help="Description of the new parts; without it, more of the same."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File (wav, flac, ogg, mp3) or folder.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much changes: 0 nothing, 1 everything. Default 0.6.")
    ] = None,
    inpaint: Annotated[
        list[str] | None,
        typer.Option(help='Regenerate a part: "2.0-3.5" s, or "2.0-3.5,200-4000" Hz. Repeatable.'),
    ] = None,
    extend: Annotated[float, typer.Option(help="Seconds to add at the end.")] = 0.0,
    before: Annotated[float, typer.Option(help="Seconds to add at the beginning.")] = 0.0,
    loop: Annotated[
        bool, typer.Option("--loop", help="Vary it to a loop, with loop points in wav.")
    ] = False,
    like: LikeOption = None,
    like_weight: LikeWeightOption = None,
    more: MoreOption = None,
    less: LessOption = None,
    steer: SteerOption = None,
    takes: Annotated[int, typer.Option(help="Results; take k uses seed + k.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed; -1 draws a random one.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; the bundled model if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance strength.")] = None,
    negative: Annotated[str | None, typer.Option(help="Description of sounds to avoid.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Drafts of each sound.")] = None,
    ucs: UcsOption = None,
    ucs_creator: UcsCreatorOption = None,
    ucs_source: UcsSourceOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in a folder.")
    ] = False,
    rate: RateOption = None,
    depth: DepthOption = "16",
    lufs: LufsOption = None,
    stereo: StereoFlag = False,
    metadata: MetadataFlag = True,
    sidecar: SidecarFlag = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    plot: Annotated[bool, typer.Option("--plot", help="Plot each sound's spectrogram.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Edit a sound: vary all of it, regenerate parts, make it longer, make it a loop.

    What is not regenerated is kept sample for sample, at the model's rate.
    """
    from soundcrafter.audio import audio_info
    from soundcrafter.diffusion.config import SECONDS_RANGE, SamplingConfig
    from soundcrafter.editing import Region, load_wave
    from soundcrafter.files import make_folder
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.request import resolve

    naming = ucs_naming(ucs, ucs_creator, ucs_source)
    export = export_of(rate=rate, depth=depth, lufs=lufs, stereo=stereo, metadata=metadata)
    regions = [Region(**_region(text)) for text in inpaint or ()]
    options: dict[str, Any] = {
        "steps": steps,
        "guidance": guidance,
        "candidates": candidates,
        "negative": negative,
        "strength": strength,
        "at": before,
        "loop": loop,
        "like_weight": like_weight,
        "more": more or (),
        "less": less or (),
        "steer": steer,
    }
    for name, added in (("extend", extend), ("before", before)):
        if not (added == 0 or LEAST_ADDED <= added <= SECONDS_RANGE[1]):
            raise ValueError(f"{name}: got {added:g}; allowed: {LEAST_ADDED:g} s or more, or 0")
    # refuse options that no model supports before one is loaded
    request = resolve(
        SamplingConfig(), prompt, wordless=prompt is None, count=takes, seed=seed, **options
    )
    text = prompt or sound.stem
    jobs = [
        OutputJob(text, None, job.seed, {}, 1, take) for take, job in enumerate(request.jobs(), 1)
    ]
    if output is not None and str(output) == "-":
        raise ValueError("output: '-' is not supported; name a file or a folder")
    audio_info(sound)  # refuse a missing file before a model is loaded
    jobs = assign_files(
        jobs, output, None, overwrite=overwrite, skip_existing=False, plot=plot, ucs=naming
    )
    for job in jobs:
        export.check(job.file.suffix)
    crafter = SoundCrafter.from_pretrained(model, device, precision=precision)
    wave = load_wave(sound, crafter.sample_rate, str(sound))
    seconds = before + len(wave) / crafter.sample_rate + extend
    report = []
    with progress("editing", show=not as_json) as advance:
        sounds = crafter.stream(
            prompt,
            init=sound,
            regions=regions,
            seconds=seconds,
            like=like,
            count=takes,
            seed=request.seeds[0],
            trim=False,
            progress=advance,
            **options,
        )
        for job, made in zip(jobs, sounds, strict=True):
            make_folder(job.file.parent)
            report.append(write_sound(made, job.file, export, plot=plot, sidecar=sidecar))
            if not as_json:
                print(f"{job.file}  {made.seconds:.2f} s  seed {made.seed}")
    if as_json:
        print(json.dumps(report, indent=2))


def _region(text: str) -> dict[str, float]:
    """Parse "START-END" or "START-END,LOW-HIGH"."""
    number = r"(\d+\.?\d*|\.\d+)"
    match = re.fullmatch(rf"{number}-{number}(?:\s*,\s*{number}-{number})?", text.strip())
    if match is None:
        raise ValueError(f'inpaint: got {text!r}; write "START-END" or "START-END,LOW-HIGH"')
    names = ("start", "end", "low", "high")
    return {
        name: float(value)
        for name, value in zip(names, match.groups(), strict=True)
        if value is not None
    }
