"""The command that measures sounds and models."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import DeviceOption, JsonFlag, progress
from soundcrafter.cli.ways import Asked, Kind, choose_way

_way = partial(typer.Option, rich_help_panel="What to do (give one)")
_listening = partial(typer.Option, rich_help_panel="Listening test (--listen)")


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="Folder or hub name; without it the bundled model.")
    ] = None,
    generated: Annotated[Path | None, _way(help="Measure this folder of sounds.")] = None,
    prompts: Annotated[
        str | None,
        _way(help="Generate for these: families, free, captions (of --data), or a file."),
    ] = None,
    chain: Annotated[
        bool,
        _way("--chain", help="Measure the model link by link; VAE and vocoder are enough."),
    ] = False,
    retrieval: Annotated[
        bool, _way("--retrieval", help="Find sounds by caption, captions by sound.")
    ] = False,
    composition: Annotated[
        bool, _way("--composition", help="Two sounds at once, and one after the other.")
    ] = False,
    listen: Annotated[
        Path | None,
        _way(help="Write a blind listening test into this folder, or say what came of it."),
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of real sounds.")] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest: real sounds of its split.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    out: Annotated[Path, typer.Option(help="Folder for report and sounds.")] = Path("evaluation"),
    keep: Annotated[
        Path | None,
        typer.Option(
            help="With --chain: every judged sound as LINK/FAMILY/NAME.wav below this folder; with "
            "--prompts that have families: as FAMILY/NAME.wav."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="With --chain: COLUMN=VALUE of the data's rows to read. Repeatable."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Of the prompts, the first so many in the order that --seed shuffles them into; "
            "real sounds are all taken."
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="That make and measure --prompts and share the cores. "
            "Default: one a core, at most 4; on a GPU 1."
        ),
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(help="tagger, clap, panns-16k, panns-32k, vggish, aisfx. Repeatable."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH of an embedder's weights. Repeatable.")
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="NAME=HEX that weights must have. Repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Sounds a prompt (1; with --chain 2).")] = None,
    seed: Annotated[int, typer.Option(help="Of the first sound and of all that is drawn.")] = 0,
    splits: Annotated[int, typer.Option(help="Of the inception score.")] = 10,
    paired: Annotated[bool, typer.Option("--paired", help="Insist on equal file names.")] = False,
    mixed_rates: Annotated[
        bool, typer.Option("--mixed-rates", help="Allow several sample rates in a folder.")
    ] = False,
    system: Annotated[
        list[str] | None,
        _listening(help="NAME=FOLDER, an --out of before or sounds alone. Repeatable."),
    ] = None,
    kind: Annotated[
        Kind | None, _listening(help="pairs (which is better; the default) or mos (grades).")
    ] = None,
    count: Annotated[
        int | None, _listening(help="Prompts in it, drawn by --seed; without it all.")
    ] = None,
    ratings: Annotated[
        list[Path] | None, _listening(help="csv that a listener has saved. Repeatable.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Measure sounds against real ones, a model as a whole, link by link or by what it fails at;
    have people listen."""
    asked = Asked(**locals())  # its fields are these parameters
    measure = choose_way(asked)
    with progress("evaluating", show=not as_json) as advance:
        report, text = measure(asked, advance)
    print(json.dumps(report, indent=2) if as_json else text)
