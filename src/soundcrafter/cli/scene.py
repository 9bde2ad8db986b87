"""The command on scenes: render one from a file or from text."""

import json
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import (
    DepthOption,
    DeviceOption,
    JsonFlag,
    LufsOption,
    MetadataFlag,
    PrecisionOption,
    RateOption,
    SidecarFlag,
    StereoFlag,
    export_of,
    progress,
)
from soundcrafter.cli.jobs import check_target
from soundcrafter.output import write_mix


def scene(
    file: Annotated[
        Path | None, typer.Argument(help="Scene (TOML or JSON), see docs/scenes.md.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Make the scene from a prompt instead of a file.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the scene to this .toml or .json, to edit it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Sound file: wav, flac, ogg or mp3.")
    ] = None,
    stems: Annotated[Path | None, typer.Option(help="Folder for a file of each track.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length, with --text.")] = None,
    seed: Annotated[int, typer.Option(help="Seed, with --text.")] = 0,
    one_pass: Annotated[
        bool, typer.Option("--one-pass", help="Make all in one pass of the model, without stems.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; the bundled model if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance strength.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Drafts of each sound.")] = None,
    rate: RateOption = None,
    depth: DepthOption = "16",
    lufs: LufsOption = None,
    stereo: StereoFlag = False,
    metadata: MetadataFlag = True,
    sidecar: SidecarFlag = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    plot: Annotated[bool, typer.Option("--plot", help="Plot timeline and spectrogram.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Render a scene: several sounds at once, or in order, from a file or from text."""
    from soundcrafter.scene.render import render, render_in_one_pass
    from soundcrafter.scene.scene import read_scene
    from soundcrafter.scene.text import scene_from_text

    export = export_of(rate=rate, depth=depth, lufs=lufs, stereo=stereo, metadata=metadata)
    if (file is None) == (text is None):
        raise ValueError("scene: give a FILE, or --text PROMPT")
    if file is not None and (seconds is not None or seed):
        raise ValueError("--seconds and --seed require --text; a scene file sets its own")
    if output is None and save is None:
        raise ValueError("output: give -o FILE for the sound, or --save FILE for the scene")
    if output is None and (stems is not None or plot):
        raise ValueError("--stems and --plot require -o FILE")
    if one_pass and stems is not None:
        raise ValueError("--stems cannot be combined with --one-pass, which makes one sound")
    if text is not None:
        made = scene_from_text(text, seconds=seconds, seed=seed)
    else:
        assert file is not None
        made = read_scene(file)
    if output is not None:
        check_target(output, plot=plot)
        export.check(output.suffix)
        if stems is not None and stems.is_file():
            raise ValueError(f"{stems}: not a folder")
    if save is not None:
        made.save(save)
    if output is None:
        return
    from soundcrafter.pipeline import SoundCrafter

    crafter = SoundCrafter.from_pretrained(model, device, precision=precision)
    options = {"steps": steps, "guidance": guidance, "candidates": candidates}
    folder = None if file is None else file.parent
    with progress("generating", show=not as_json) as advance:
        if one_pass:
            mix = render_in_one_pass(made, crafter, progress=advance, **options)
        else:
            mix = render(made, crafter, folder=folder, progress=advance, **options)
    facts = write_mix(mix, output, export, stems=stems, plot=plot, sidecar=sidecar)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{output}  {facts['seconds']:.2f} s")
    for sound in facts["sounds"]:
        print(f"  {sound['start']:6.2f} to {sound['end']:6.2f} s  {sound['what']}")
