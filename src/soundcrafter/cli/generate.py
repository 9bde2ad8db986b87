"""Commands that make sounds."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import DeviceOption, JsonFlag, PrecisionOption, progress
from soundcrafter.diffusion.samplers import SAMPLERS

DEMO_PROMPTS = ("rain", "a dog barks", "church bells ring")


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What should be heard.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file, one prompt per line; csv: column prompt.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File (wav, flac, ogg) or folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; the bundled model if not given.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length in seconds, 0.2 to 600.")] = None,
    count: Annotated[int, typer.Option(help="Sounds per prompt; sound k uses seed + k.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance strength; 1 turns it off.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What should not be heard.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Drafts of each sound; CLAP chooses one.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Adapter (LoRA) folder, or FOLDER:WEIGHT. Repeatable."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help=f"One of {', '.join(SAMPLERS)}.")] = None,
    reuse: Annotated[
        int | None, typer.Option(help="Steps that share the U-Net's inner levels: faster, rougher.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    plot: Annotated[bool, typer.Option("--plot", help="Plot each sound's spectrogram.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make sounds from a prompt, or from a file of prompts."""
    from soundcrafter.diffusion.sample import SamplingConfig
    from soundcrafter.files import make_folder
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.request import resolve

    wanted = _read_prompts(prompt, prompts)
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
    }
    # refuse what no model can do before one is loaded
    resolve(SamplingConfig(), wanted, **options)
    files = _output_files(output, wanted, count, seed)
    crafter = SoundCrafter.from_pretrained(model, device, _adapters(adapter or ()), precision)
    report = []
    with progress("generating", show=not as_json) as advance:
        sounds = crafter.stream(wanted, **options, progress=advance)
        make_folder(files[0].parent)
        for sound, file in zip(sounds, files, strict=True):
            sound.save(file)
            if plot:
                sound.plot(file.with_suffix(".png"))
            score = None if sound.score is None else round(sound.score, 4)
            facts = {"seed": sound.seed, "seconds": sound.seconds, "score": score}
            report.append({"file": str(file), "prompt": sound.prompt, **facts})
            if not as_json:
                said = "" if score is None else f"  score {score:.2f}"
                print(f"{file}  {sound.seconds:.2f} s  seed {sound.seed}{said}")
    if as_json:
        print(json.dumps(report, indent=2))


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
    with progress("generating") as advance:
        sounds = model.generate(DEMO_PROMPTS, seed=1, progress=advance)
    for sound in sounds:
        file = sound.save(out / f"{_slug(sound.prompt)}.wav")
        sound.plot(file.with_suffix(".png"))
        print(f"{file}  and its spectrogram, {file.with_suffix('.png').name}")
    waves = {sound.prompt: sound.wave for sound in sounds}
    plot_grid(waves, model.sample_rate, out / "demo.png")
    print('make your own:  soundcrafter generate "a dog barks" --seconds 5 -o dog.wav')


def _adapters(given: Sequence[str]) -> dict[str, float]:
    """Folders and their weights, from FOLDER or FOLDER:WEIGHT; a folder named twice adds up."""
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


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise ValueError("prompt: give one prompt, or --prompts FILE")
    if file is None:
        return [prompt or ""]
    from soundcrafter.evaluate.prompts import read_prompts

    return [each.text for each in read_prompts(file)]


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
