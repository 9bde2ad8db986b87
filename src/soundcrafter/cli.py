"""The command line. Heavy imports wait until a command runs, so that --help is instant."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.version import __version__

app = typer.Typer(
    help="Text in, sound effect out.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at recordings, encode them for training.")
app.add_typer(data_app, name="data")


DEMO_PROMPTS = ("rain", "a dog barks", "church bells ring")


class StageName(StrEnum):
    """The trainings: the text tower alone, the four parts, the tagger that judges them."""

    text = "text"
    clap = "clap"
    vae = "vae"
    vocoder = "vocoder"
    diffusion = "diffusion"
    tagger = "tagger"


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
RecipeOption = Annotated[Path, typer.Option(help="Recipe (TOML), see recipes/.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override: section.name=value. Repeatable.")
]
DataOption = Annotated[Path, typer.Option(help="Manifest (csv, jsonl) or folder of recordings.")]


def main() -> None:
    """Run the command line: exit 0; 2 with one line on stderr for what the user can mend."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        _fail(error.format_message())
    except (ValueError, OSError) as error:
        _fail(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Text in, sound effect out."""


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What should be heard.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt a line.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File (wav, flac, ogg) or folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; without it the bundled model.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length, .2 to 600.")] = None,
    count: Annotated[int, typer.Option(help="Sounds a prompt; sound k has seed + k.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the prompt; 1 is none.")] = None,
    negative: Annotated[str | None, typer.Option(help="What should not be heard.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Drafts of each sound, of which CLAP chooses.")
    ] = None,
    device: DeviceOption = "auto",
    plot: Annotated[bool, typer.Option("--plot", help="A spectrogram PNG by each sound.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make sounds from a prompt, or from a file of prompts."""
    from soundcrafter.files import make_folder
    from soundcrafter.pipeline import SoundCrafter, check_request

    wanted = _read_prompts(prompt, prompts)
    # everything that can be refused is refused before a model is loaded
    check_request(
        wanted,
        seconds=1.0 if seconds is None else seconds,
        count=count,
        seed=seed,
        steps=1 if steps is None else steps,
        guidance=1.0 if guidance is None else guidance,
        candidates=1 if candidates is None else candidates,
    )
    files = _output_files(output, wanted, count, seed)
    crafter = SoundCrafter.from_pretrained(model, device)
    report = []
    with _progress("generating", show=not as_json) as advance:
        sounds = crafter.stream(
            wanted,
            seconds=seconds,
            count=count,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            candidates=candidates,
            progress=advance,
        )
        make_folder(files[0].parent)
        for sound, file in zip(sounds, files, strict=True):
            sound.save(file)
            if plot:
                sound.plot(file.with_suffix(".png"))
            facts = {"seed": sound.seed, "seconds": sound.seconds, "score": round(sound.score, 4)}
            report.append({"file": str(file), "prompt": sound.prompt, **facts})
            if not as_json:
                print(f"{file}  {sound.seconds:.2f} s  seed {sound.seed}  score {sound.score:.2f}")
    if as_json:
        print(json.dumps(report, indent=2))


@app.command()
def train(
    stage: Annotated[StageName, typer.Argument(help="Which part.")],
    recipe: RecipeOption,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Model folder that grows stage by stage.")],
    init: Annotated[str | None, typer.Option(help="Model to start from.")] = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[int, typer.Option(help="Threads that load data.")] = 1,
    log_steps: Annotated[int, typer.Option(help="Steps between log lines.")] = 50,
    sample_steps: Annotated[
        int, typer.Option(help="Steps between sounds and pictures in TensorBoard; 0: none.")
    ] = 0,
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between checkpoints; 0: none.")] = 0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    keep: Annotated[int, typer.Option(help="Checkpoints kept.")] = 2,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long, resumable.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train one part; the same command again resumes."""
    from soundcrafter.train import RunOptions, read_recipe
    from soundcrafter.train import train as run_training

    settings = read_recipe(recipe, overrides or ())
    options = RunOptions(
        device=device,
        workers=workers,
        log_steps=log_steps,
        sample_steps=sample_steps,
        checkpoint_steps=checkpoint_steps,
        checkpoint_minutes=checkpoint_minutes,
        keep=keep,
        max_minutes=minutes,
    )
    total = getattr(settings, stage.value).steps

    def report(entry: Mapping[str, Any]) -> None:
        print(json.dumps(entry) if as_json else _log_line(stage.value, entry, total), flush=True)

    done = run_training(
        stage.value, settings, data=data, out=out, options=options, init=init, report=report
    )
    if not as_json:
        print(f"{stage.value}: {done} of {total} steps done, in {out}")
    for listed in sorted((out / "training").glob("*/skipped.json")):
        count = len(json.loads(listed.read_text(encoding="utf-8")))
        print(f"{count} recordings were skipped; see {listed}", file=sys.stderr)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the sounds.")] = Path("demo"),
    device: DeviceOption = "auto",
) -> None:
    """Three sounds from the bundled model, with their spectrograms."""
    from soundcrafter.files import make_folder
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.plots import plot_grid

    model = SoundCrafter.from_pretrained(device=device)
    make_folder(out)
    with _progress("generating") as advance:
        sounds = model.generate(DEMO_PROMPTS, seed=1, progress=advance)
    for sound in sounds:
        file = sound.save(out / f"{_slug(sound.prompt)}.wav")
        sound.plot(file.with_suffix(".png"))
        print(f"{file}  and its spectrogram, {file.with_suffix('.png').name}")
    waves = {sound.prompt: sound.wave for sound in sounds}
    plot_grid(waves, model.sample_rate, out / "demo.png")
    print('make your own:  soundcrafter generate "a dog barks" --seconds 5 -o dog.wav')


@app.command()
def ship(
    model: Annotated[Path, typer.Argument(help="Trained model folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the copy.")],
    data: Annotated[
        Path | None, typer.Option(help="What it was trained on, for the credits.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    figures: Annotated[Path | None, typer.Option(help="JSON of measurements for the card.")] = None,
    notes: Annotated[Path | None, typer.Option(help="Text for the card: limits, terms.")] = None,
) -> None:
    """Copy a model in half precision, with a model card and credits."""
    from soundcrafter.files import read_json
    from soundcrafter.train.ship import ship as copy_model

    found = read_json(figures) if figures is not None else None
    text = _read_text(notes) if notes is not None else ""
    print(copy_model(model, out, data=data, dtype=dtype, figures=found, notes=text))


@app.command()
def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="Folder or hub name; without it the bundled model.")
    ] = None,
    generated: Annotated[Path | None, typer.Option(help="Folder of sounds to measure.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of real sounds.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="Generate for these: families, free, captions (of --data), or a file."),
    ] = None,
    chain: Annotated[bool, typer.Option("--chain", help="Measure the model link by link.")] = False,
    data: Annotated[Path | None, typer.Option(help="Manifest: real sounds of its split.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    out: Annotated[Path, typer.Option(help="Folder for report and sounds.")] = Path("evaluation"),
    embedder: Annotated[
        list[str] | None,
        typer.Option(help="tagger, clap, panns-16k, panns-32k, vggish. Repeatable."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH of an embedder's weights. Repeatable.")
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="NAME=HEX that weights must have. Repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Sounds a prompt (1; with --chain 2).")] = None,
    seed: Annotated[int, typer.Option(help="Of the first sound and of all splits.")] = 0,
    splits: Annotated[int, typer.Option(help="Of the inception score.")] = 10,
    paired: Annotated[bool, typer.Option("--paired", help="Insist on equal file names.")] = False,
    mixed_rates: Annotated[
        bool, typer.Option("--mixed-rates", help="Allow several sample rates in a folder.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Measure sounds against real ones, or a model link by link."""
    ways = [chain, prompts is not None, generated is not None]
    if sum(ways) != 1:
        raise ValueError("evaluate: give one of --generated DIR, --prompts FILE and --chain")
    if chain and data is None:
        raise ValueError("--chain: needs --data, real recordings with their families")
    if not chain and (reference is None) == (data is None):
        raise ValueError("evaluate: give real sounds, --reference DIR or --data with --split")
    from soundcrafter.evaluate.chain import chain_markdown, evaluate_chain
    from soundcrafter.evaluate.compare import compare_markdown, find_recordings, find_sounds
    from soundcrafter.evaluate.embedders import open_embedder
    from soundcrafter.evaluate.run import evaluate_folders, evaluate_prompts, prompts_named
    from soundcrafter.pipeline import SoundCrafter

    wanted = prompts_named(prompts, data, split) if prompts is not None else ()
    weights, hashes = _pairs("--checkpoint", checkpoint), _pairs("--sha256", sha256)
    names = embedder or ["tagger", "clap"]
    unused = sorted({*weights, *hashes} - set(names))
    if unused:
        raise ValueError(f"--checkpoint, --sha256: no --embedder {', '.join(unused)}")
    crafter = None if generated else SoundCrafter.from_pretrained(model, device)
    with _progress("evaluating", show=not as_json) as advance:
        if chain and crafter is not None and data is not None:
            report = evaluate_chain(
                crafter,
                data,
                out,
                split=split,
                seeds=2 if seeds is None else seeds,
                seed=seed,
                progress=advance,
            )
            text = chain_markdown(report)
        else:
            opened = [
                open_embedder(
                    name,
                    checkpoint=Path(weights[name]) if name in weights else None,
                    sha256=hashes.get(name),
                )
                for name in names
            ]
            if reference is not None:
                real = find_sounds(reference, mixed_rates=mixed_rates)
            else:
                assert data is not None
                real = find_recordings(data, split)
            if generated is not None:
                report = evaluate_folders(
                    generated,
                    real,
                    opened,
                    out,
                    splits=splits,
                    seed=seed,
                    paired=paired,
                    mixed_rates=mixed_rates,
                    progress=advance,
                )
            else:
                assert crafter is not None
                report = evaluate_prompts(
                    crafter,
                    wanted,
                    real,
                    opened,
                    out,
                    data=data,
                    split=split,
                    seeds=seeds or 1,
                    seed=seed,
                    splits=splits,
                    progress=advance,
                )
            text = compare_markdown(report)
    print(json.dumps(report, indent=2) if as_json else text)


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a dict."""
    for text in given or ():
        if not all(text.partition("=")):
            raise ValueError(f"{option}: got {text!r}; expected NAME=VALUE")
    return {text.partition("=")[0]: text.partition("=")[2] for text in given or ()}


@app.command()
def info(
    target: Annotated[
        str | None, typer.Argument(help="Recipe, model folder or hub name; else the bundled model.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """What a model or a recipe is: its parts, their sizes, its defaults."""
    from soundcrafter.describe import describe

    facts = describe(target, overrides or ())
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    rows = [[name, f"{count:,}"] for name, count in facts["parameters"].items()]
    _print_table(
        target or "bundled model",
        ["part", "parameters"],
        [*rows, ["in all", f"{facts['total']:,}"]],
    )
    for key in ("sample_rate", "latent", "diffusion", "sampling"):
        if key in facts:
            print(f"{key}: {facts[key]}")


@data_app.command("check")
def data_check(
    data: Annotated[Path, typer.Argument(help="Manifest (csv, jsonl) or folder.")],
    split: Annotated[str | None, typer.Option(help="One split only.")] = None,
    label_column: Annotated[str, typer.Option(help="Column that holds the label.")] = "label",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every file in full.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Count recordings, seconds, captions and labels; list what cannot be read."""
    from soundcrafter.data.check import check

    with _progress("checking", show=decode and not as_json) as advance:
        facts = check(data, split, label_column, decode=decode, progress=advance)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key in ("recordings", "minutes", "captions", "labels"):
        print(f"{key}: {facts[key]}")
    print(f"splits: {facts['splits']}")
    print(f"skipped: {len(facts['skipped'])}")
    for file, reason in facts["skipped"]:
        print(f"  {file}: {reason}")


@data_app.command("encode")
def data_encode(
    recipe: RecipeOption,
    data: DataOption,
    model: Annotated[str, typer.Option(help="Model with VAE and CLAP.")],
    out: Annotated[Path, typer.Option(help="Folder for latents and embeddings.")],
    overrides: SetOption = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Sounds encoded at once.")] = 16,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Compute latents and CLAP embeddings once, for training the U-Net from them."""
    from soundcrafter.files import read_json
    from soundcrafter.store import find_model
    from soundcrafter.train.encode import encode_data
    from soundcrafter.train.recipe import read_recipe

    settings = read_recipe(recipe, overrides or ())
    with _progress("encoding", show=not as_json) as advance:
        index = encode_data(
            settings,
            data,
            find_model(model),
            out,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            progress=advance,
        )
    skipped = read_json(index)["skipped"]
    if as_json:
        print(json.dumps({"index": str(index), "skipped": skipped}, indent=2))
    else:
        print(f"{index}  skipped recordings: {len(skipped)}")


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise ValueError("prompt: give one prompt, or --prompts FILE")
    if file is None:
        return [prompt or ""]
    found = [line.strip() for line in _read_text(file).splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{file}: no prompt in it")
    return found


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot read: {error}") from None


def _output_files(output: Path | None, prompts: list[str], count: int, seed: int) -> list[Path]:
    """Where each sound goes: the file named, numbered where there are several, or a folder.

    A folder may be a new one; nothing is made yet. Raises ValueError for what cannot be written.
    """
    from soundcrafter.audio import WRITE_SUFFIXES

    total = len(prompts) * count
    if output is not None and output.suffix and not output.is_dir():
        if output.suffix.lower() not in WRITE_SUFFIXES:
            allowed = ", ".join(WRITE_SUFFIXES)
            raise ValueError(f"{output}: cannot write {output.suffix!r}; allowed: {allowed}")
        folder = output.parent
        numbers = [""] if total == 1 else [f"-{i + 1:0{len(str(total))}d}" for i in range(total)]
        files = [output.with_name(f"{output.stem}{number}{output.suffix}") for number in numbers]
    else:
        folder = output or Path()
        width = len(str(len(prompts)))
        starts = ["" if len(prompts) == 1 else f"{i + 1:0{width}d}-" for i in range(len(prompts))]
        files = [
            folder / f"{start}{_slug(prompt)}-{seed + k}.wav"
            for start, prompt in zip(starts, prompts, strict=True)
            for k in range(count)
        ]
        # a new folder needs one above it to be made in
        folder = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{folder}: no such folder, or it cannot be written")
    return files


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60]
    # a file's name may have 255 bytes, not letters, on most disks
    return words.encode()[:180].decode(errors="ignore") or "sound"


def _log_line(stage: str, entry: Mapping[str, Any], total: int) -> str:
    hidden = ("step", "learning_rate", "samples_per_second")
    losses = "  ".join(f"{key} {value:.4g}" for key, value in entry.items() if key not in hidden)
    speed = entry["samples_per_second"]
    return f"{stage} {entry['step']}/{total}  {losses}  {speed:.1f} samples/s"


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@contextmanager
def _progress(what: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where someone looks; yields a callback (done, total)."""
    if not (show and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
