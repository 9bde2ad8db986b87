"""Commands that make sounds."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundcrafter.cli.bulk import BulkPlan, check_bulk, generate_on_ray
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
from soundcrafter.cli.exported import exported_options, load_exported
from soundcrafter.cli.jobs import assign_files, check_pipe
from soundcrafter.cli.ray_options import RayOption, RayOptions, WorkerCpusOption, WorkersOption
from soundcrafter.diffusion.samplers import SAMPLERS
from soundcrafter.output import write_made
from soundcrafter.output_jobs import COMPOSE, STDOUT, plan_jobs, run_jobs

if TYPE_CHECKING:
    from soundcrafter.prompt_file import PromptRow
    from soundcrafter.scene.render import Mix

DEMO_PROMPTS = ("rain", "a dog barks", "church bells ring")
_TYPED = ("COMMANDLINE", "ENVIRONMENT")  # where an option's value comes from if not its default
_QUIET_END = 0.5  # seconds of silence after a sound that are worth a warning


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="Description of the sound.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file, one prompt per line; or csv, jsonl or Parquet with prompt, and "
            "optionally name and options (seed, seconds, ...) per row."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Make the sound of this file again, or change its options."),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(help='In place of a prompt, several and their weights: "rain:0.7,fire:0.3".'),
    ] = None,
    morph_to: Annotated[
        str | None, typer.Option(help="Description that the sound turns into.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="File (wav, flac, ogg, mp3), folder, or - for a pipe."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; the bundled model if not given.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Length in seconds, 0.2 to 600; without it, silence around the sound is cut."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Sounds per prompt; sound k uses seed + k.")] = 1,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same sound; -1 draws a random one.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance strength; 1 turns it off.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Description of sounds to avoid.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Drafts of each sound; CLAP chooses one.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Adapter (LoRA) folder, or FOLDER:WEIGHT. Repeatable."),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Make a loop, with loop points in wav.")
    ] = False,
    like: LikeOption = None,
    like_weight: LikeWeightOption = None,
    more: MoreOption = None,
    less: LessOption = None,
    steer: SteerOption = None,
    sampler: Annotated[str | None, typer.Option(help=f"One of {', '.join(SAMPLERS)}.")] = None,
    reuse: Annotated[
        int | None, typer.Option(help="Steps that share the U-Net's inner levels: faster, rougher.")
    ] = None,
    fast: Annotated[
        bool | None,
        typer.Option("--fast/--no-fast", help="Use the distilled U-Net, if the model has one."),
    ] = None,
    trim: Annotated[
        bool | None,
        typer.Option("--trim/--no-trim", help="Cut silence before and after sounds, or keep it."),
    ] = None,
    compose: Annotated[
        str,
        typer.Option(
            help="auto mixes the events of a prompt; one-pass makes them in one sound, each in its "
            "time; off leaves it to the model."
        ),
    ] = "auto",
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill --seconds with more takes where a sound is short.")
    ] = False,
    stems: Annotated[
        Path | None, typer.Option(help="Folder for the events of a composed sound.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sounds made at once.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help='File names in a folder, e.g. "{index:03}-{slug}-{seed}".'),
    ] = None,
    ucs: UcsOption = None,
    ucs_creator: UcsCreatorOption = None,
    ucs_source: UcsSourceOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in a folder.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Make only the sounds whose files are missing.")
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
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
) -> None:
    """Make sounds from a prompt, or from a file of prompts."""
    if source is not None:
        _make_again(context, source)
        return
    from soundcrafter.files import make_folder
    from soundcrafter.onnx.folder import is_exported

    options: dict[str, Any] = {
        "seconds": seconds,
        "count": count,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "candidates": candidates,
        "sampler": sampler,
        "reuse": reuse,
        "fast": fast,
        "trim": trim,
        "batch_size": batch_size,
        "loop": loop,
        "like_weight": like_weight,
        "more": tuple(more or ()),
        "less": tuple(less or ()),
        "steer": steer,
    }
    exported = is_exported(model)
    if exported:
        others = {"--adapter": adapter, "--like": like, "--morph-to": morph_to, "--fill": fill}
        others |= {"--stems": stems, "--compose one-pass": compose == "one-pass"}
        others |= {"--ray": ray is not None}
        options = exported_options(options, others, device=device, precision=precision)
        compose = "off" if compose == "auto" else compose  # scenes need torch
    if plot:
        from soundcrafter.plots import check_plots

        check_plots()
    # refuse options that no model supports before one is loaded
    export = export_of(rate=rate, depth=depth, lufs=lufs, stereo=stereo, metadata=metadata)
    if compose not in COMPOSE:
        raise ValueError(f"compose: got {compose!r}; allowed: {', '.join(COMPOSE)}")
    if fill and compose != "auto":
        raise ValueError("--fill requires --compose auto")
    naming = ucs_naming(ucs, ucs_creator, ucs_source)
    cluster = RayOptions.of(ray, workers, worker_cpus)
    if cluster is not None:
        check_bulk(_given(context), output, seed, name)
    if (mix is not None or morph_to is not None) and (fill or compose == "one-pass"):
        raise ValueError("--mix and --morph-to cannot be combined with --fill and --compose")
    if morph_to is not None and not morph_to.strip():
        raise ValueError("morph-to: must not be empty; describe the sound")
    if morph_to is not None and loop:
        raise ValueError("--morph-to cannot be combined with --loop: a loop has no end to reach")
    if mix is not None and (prompt is not None or prompts is not None or morph_to is not None):
        raise ValueError("--mix replaces the prompt; give one of them")
    if loop and (trim or fill):
        raise ValueError("--loop cannot be combined with --trim and --fill")
    rows = _read_rows(prompt if mix is None else mix, prompts)
    if cluster is not None:
        plan = BulkPlan(
            options=options,
            compose=compose,
            fill=fill,
            morph_to=morph_to or "",
            template=name,
            naming=naming,
        )
        settings = {
            "model": model,
            "device": device,
            "adapters": parse_adapters(adapter or ()),
            "precision": precision,
            "export": export,
            "like": like,
        }
        assert output is not None
        raise typer.Exit(generate_on_ray(rows, plan, cluster, output, settings, as_json=as_json))
    target = None if output is None else Path(output)
    jobs = plan_jobs(
        rows,
        options,
        prompts,
        compose=compose,
        fill=fill,
        is_mix=mix is not None,
        morph_to=morph_to or "",
    )
    if loop and any(job.scene is not None and not job.one_pass for job in jobs):
        raise ValueError("--loop requires a single event per prompt, or --compose off")
    if stems is not None and stems.is_file():
        raise ValueError(f"{stems}: not a folder")
    if stems is not None and compose == "one-pass":
        raise ValueError("stems: not available with --compose one-pass, which makes one sound")
    if stems is not None and (len(jobs) != 1 or jobs[0].scene is None):
        raise ValueError("stems: requires a single sound whose prompt has several events")
    if trim is not None and any(job.scene is not None and not job.one_pass for job in jobs):
        raise ValueError("--trim and --no-trim require a single event per prompt, or --compose off")
    if target == STDOUT:
        given = {"--plot": plot, "--json": as_json, "--name": name, "--stems": stems}
        given |= {
            "--sidecar": sidecar,
            "--ucs": ucs,
            "--overwrite": overwrite,
            "--skip-existing": skip_existing,
        }
        check_pipe(jobs, [option for option, there in given.items() if there])
    else:
        jobs = assign_files(
            jobs,
            target,
            name,
            overwrite=overwrite,
            skip_existing=skip_existing,
            plot=plot,
            ucs=naming,
        )
    for job in jobs:
        if job.file != STDOUT:
            export.check(job.file.suffix)
    report: list[dict[str, object]] = []
    crafter: Any
    if exported:
        crafter = load_exported(str(model), jobs)
    else:
        from soundcrafter.pipeline import SoundCrafter

        adapters = parse_adapters(adapter or ())
        crafter = SoundCrafter.from_pretrained(model, device, adapters, precision)
    with progress("generating", show=not as_json) as advance:
        for made in run_jobs(crafter, jobs, advance, like):
            job, sound = made.job, made.sound
            if made.mix is not None:
                _say_composed(made.mix)
            elif stems is not None:
                print(f"warning: {stems}: no stems: the prompt is one sound", file=sys.stderr)
            if made.timeline is not None:
                print(f"in one pass: {made.timeline}", file=sys.stderr)
            if job.file == STDOUT:
                sys.stdout.buffer.write(sound.to_bytes(".wav", export))
                continue
            make_folder(job.file.parent)
            report.append(
                write_made(made, job.file, export, stems=stems, plot=plot, sidecar=sidecar)
            )
            if not as_json:
                score = "" if sound.score is None else f"  score {sound.score:.2f}"
                print(f"{job.file}  {sound.seconds:.2f} s  seed {sound.seed}{score}")
            if sound.seconds - sound.end > _QUIET_END:
                advice = "" if job.scene is not None else " (--fill repeats the sound)"
                print(
                    f"warning: {job.file}: the sound ends at {sound.end:.1f} s of "
                    f"{sound.seconds:.1f} s; silence follows{advice}",
                    file=sys.stderr,
                )
    if as_json:
        print(json.dumps(report, indent=2))


def _given(context: typer.Context) -> set[str]:
    """The options that were typed."""
    # a typer of another version has another enumeration
    return {
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") in _TYPED
    }


def _make_again(context: typer.Context, source: Path) -> None:
    """Make the sound of a file again, with the options of the command line changed."""
    from soundcrafter.blend import Blend
    from soundcrafter.cli.again import CHANGES, EXPORT, Again, check_given, make_again

    values, given = context.params, _given(context)
    check_given(given)
    output = None if values["output"] is None else Path(values["output"])
    if output == STDOUT:
        raise ValueError("output: '-' cannot be combined with --from")
    changes = {CHANGES[name]: values[name] for name in CHANGES if name in given}
    if "mix" in given:
        if "prompt" in given:
            raise ValueError("--mix replaces the prompt; give one of them")
        changes["prompts"] = Blend.parse(changes.pop("mix"))
    options = Again(
        output=output,
        model=values["model"],
        adapters=parse_adapters(values["adapter"]) if "adapter" in given else None,
        device=values["device"],
        precision=values["precision"] if "precision" in given else None,
        **{name: values[name] for name in ("overwrite", "plot", "as_json", "sidecar", "stems")},
    )
    make_again(source, options, changes, {name: values[name] for name in EXPORT if name in given})


def _say_composed(mix: "Mix") -> None:
    events = ", ".join(f"{sound.what} at {sound.start:.1f} s" for sound in mix.sounds)
    advice = "--compose off leaves the prompt to the model"
    count = "1 sound" if len(mix.sounds) == 1 else f"{len(mix.sounds)} sounds"
    print(f"composed of {count}: {events} ({advice})", file=sys.stderr)


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the sounds.")] = Path("demo"),
    device: DeviceOption = "auto",
) -> None:
    """Make three sounds with the bundled model, and plot their spectrograms."""
    from soundcrafter.filenames import slug
    from soundcrafter.files import make_folder
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.plots import plot_grid

    model = SoundCrafter.from_pretrained(device=device)
    make_folder(out)
    with progress("generating") as advance:
        sounds = model.generate(DEMO_PROMPTS, seed=1, progress=advance)
    for sound in sounds:
        file = sound.save(out / f"{slug(sound.prompt)}.wav")
        sound.plot(file.with_suffix(".png"))
        print(f"{file}  and its spectrogram, {file.with_suffix('.png').name}")
    waves = {sound.prompt: sound.wave for sound in sounds}
    plot_grid(waves, model.sample_rate, out / "demo.png")
    print('make your own:  soundcrafter generate "a dog barks" --seconds 5 -o dog.wav')
    print("in a browser:   soundcrafter serve")


def parse_adapters(given: Sequence[str]) -> dict[str, float]:
    """Parse FOLDER or FOLDER:WEIGHT; the weights of a folder given twice are added."""
    weights: dict[str, float] = {}
    for text in given:
        folder, colon, number = text.rpartition(":")
        if not colon or Path(text).is_dir():
            folder, number = text, "1"
        try:
            weights[folder] = weights.get(folder, 0.0) + float(number)
        except ValueError:
            raise ValueError(f"adapter: got {text!r}; write FOLDER or FOLDER:WEIGHT") from None
    return weights


def _read_rows(prompt: str | None, file: Path | None) -> "list[PromptRow]":
    from soundcrafter.prompt_file import PromptRow, read_prompt_file

    if (prompt is None) == (file is None):
        raise ValueError("prompt: give one prompt, or --prompts FILE")
    return [PromptRow(prompt or "")] if file is None else read_prompt_file(file)
