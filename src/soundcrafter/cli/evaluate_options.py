"""Options that several evaluation commands share, and what they stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from soundcrafter.cli.common import named_values
from soundcrafter.files import locked

if TYPE_CHECKING:
    from soundcrafter.evaluate.embedders import OpenEmbedder
    from soundcrafter.evaluate.sound_files import SoundFiles

ModelArgument = Annotated[
    str | None, typer.Argument(help="Model folder or hub name; by default the bundled model.")
]
DataOption = Annotated[Path, typer.Option(help="Manifest or folder with the real recordings.")]
DataOrNone = Annotated[
    Path | None, typer.Option(help="Manifest with real recordings to compare with.")
]
ReferenceOption = Annotated[
    Path | None, typer.Option(help="Folder of real sounds to compare with, instead of --data.")
]
MixedRatesFlag = Annotated[
    bool, typer.Option("--mixed-rates", help="Allow different sample rates in one folder.")
]
SplitOption = Annotated[str, typer.Option(help="Split of the data.")]
SplitOrNone = Annotated[str | None, typer.Option(help="Split of the data. Default: test.")]
OutOption = Annotated[Path, typer.Option(help="Folder for the report and the sounds.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the first sound and of all random draws.")]
SeedsOption = Annotated[int, typer.Option(help="Sounds per prompt.")]
LimitOption = Annotated[
    int | None,
    typer.Option(help="Use only this many prompts, drawn by --seed. All real sounds are used."),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(help="Processes. Default: one per core, at most 4; on a GPU 1."),
]
KeepOption = Annotated[
    Path | None, typer.Option(help="Also copy each sound to FAMILY/NAME.wav below this folder.")
]
EmbeddersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--embedder",
        help="tagger, clap, panns-16k, panns-32k, vggish or aisfx. Repeatable. "
        "Default: tagger and clap.",
    ),
]
CheckpointOption = Annotated[
    list[str] | None, typer.Option(help="NAME=PATH of an embedder's weights. Repeatable.")
]
HashOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=HEX: required hash of an embedder's weights. Repeatable."),
]
SplitsOption = Annotated[int, typer.Option(help="Splits of the inception score.")]
OUT = Path("evaluation")


class HoldingCommand(TyperCommand):
    """A command that holds the folder of its --out until it ends; ValueError, before any work,
    where another process does."""

    def invoke(self, ctx: Any) -> Any:
        with locked(ctx.params["out"]):
            return super().invoke(ctx)


def find_real(
    data: Path | None, split: str | None, reference: Path | None, mixed_rates: bool
) -> "SoundFiles":
    """The real sounds of a comparison. ValueError unless exactly one source is given, and for
    options that belong to the other one."""
    from soundcrafter.evaluate.sound_files import find_recordings, find_sounds

    if (data is None) == (reference is None):
        raise ValueError("evaluate: give real sounds, --reference DIR or --data with --split")
    if reference is not None:
        if split is not None:
            raise ValueError("--split requires --data")
        return find_sounds(reference, mixed_rates=mixed_rates)
    assert data is not None
    if mixed_rates:
        raise ValueError("--mixed-rates requires --reference")
    return find_recordings(data, split or "test")


def choose_embedders(
    names: list[str] | None, checkpoints: list[str] | None, hashes: list[str] | None
) -> "list[OpenEmbedder]":
    """The embedders (by default tagger and clap) with their given weights and hashes."""
    from functools import partial

    from soundcrafter.evaluate.embedders import open_embedder

    files = named_values("--checkpoint", checkpoints)
    wanted = named_values("--sha256", hashes)
    names = names or ["tagger", "clap"]
    unused = sorted({*files, *wanted} - set(names))
    if unused:
        raise ValueError(f"--checkpoint, --sha256: no --embedder {', '.join(unused)}")
    return [
        partial(
            open_embedder,
            name,
            checkpoint=Path(files[name]) if name in files else None,
            sha256=wanted.get(name),
        )
        for name in names
    ]
