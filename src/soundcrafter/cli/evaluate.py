"""The commands that measure models and sounds, see docs/evaluation.md."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soundcrafter.cli.common import DeviceOption, JsonFlag, named_values, progress
from soundcrafter.cli.evaluate_options import (
    OUT,
    CheckpointOption,
    DataOption,
    DataOrNone,
    EmbeddersOption,
    HashOption,
    HoldingCommand,
    MixedRatesFlag,
    ModelArgument,
    OutOption,
    ReferenceOption,
    SeedOption,
    SeedsOption,
    SplitOption,
    SplitOrNone,
    SplitsOption,
    choose_embedders,
    find_real,
)
from soundcrafter.cli.evaluate_prompts import captions, families, free, prompts
from soundcrafter.cli.listening import listen, listen_results
from soundcrafter.cli.ray_options import HoldingRayCommand

_FORMER = {  # option of earlier versions -> the command that replaces it
    "--generated": "folders DIR",
    "--chain": "chain [MODEL]",
    "--retrieval": "retrieval [MODEL]",
    "--composition": "composition [MODEL]",
    "--ratings": "listen-results DIR FILE...",
    "--listen": "listen DIR",
    "--prompts": "prompts FILE [MODEL]",
}


class _EvaluateGroup(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the new command where an option of an earlier version selects one."""
        if args and args[0] not in self.commands:
            given = {word.partition("=")[0]: word.partition("=")[2] for word in args}
            following = dict(zip(args, [*args[1:], ""], strict=True))
            for option, command in _FORMER.items():
                if option in given:
                    value = given[option] or following.get(option)
                    if option == "--prompts" and value in ("captions", "families", "free"):
                        option, command = f"--prompts {value}", f"{value} [MODEL]"
                    raise ValueError(
                        f"evaluate {option} is now a command: soundcrafter evaluate {command}"
                    )
        return super().parse_args(ctx, args)


evaluate_app = typer.Typer(
    cls=_EvaluateGroup, help="Measure a model, or sounds, and run listening tests."
)
evaluate_app.command(cls=HoldingRayCommand)(captions)
evaluate_app.command(cls=HoldingCommand)(families)
evaluate_app.command(cls=HoldingCommand)(free)
evaluate_app.command(cls=HoldingCommand)(prompts)


@evaluate_app.command(cls=HoldingCommand)
def chain(
    data: DataOption,
    model: ModelArgument = None,
    split: SplitOption = "test",
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: use only these rows. Repeatable.")
    ] = None,
    seeds: SeedsOption = 2,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    keep: Annotated[
        Path | None,
        typer.Option(help="Also copy each sound to LINK/FAMILY/NAME.wav below this folder."),
    ] = None,
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Measure how recognisable sounds are after each part of a model: vocoder, VAE, U-Net.

    A VAE and a vocoder are enough; then nothing is generated.
    """
    from soundcrafter.device import choose_device
    from soundcrafter.evaluate.chain import evaluate_chain
    from soundcrafter.evaluate.chain_report import chain_markdown
    from soundcrafter.evaluate.codec import Codec, open_codec
    from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
    from soundcrafter.hub import find_model
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.store import open_folder

    rows = named_values("--where", where)
    folder, torch_device = open_folder(find_model(model)), choose_device(device)
    loaded: SoundCrafter | Codec
    if {"clap_text", "unet"} <= set(folder.parts):
        loaded = SoundCrafter(folder, torch_device, precision="fp32")
    else:
        loaded = open_codec(folder, torch_device)
    with progress("evaluating", show=not as_json) as advance:
        report = evaluate_chain(
            loaded,
            data,
            out,
            split=split,
            where=rows,
            seeds=seeds,
            seed=seed,
            tagger=TaggerEmbedder.bundled(torch_device),
            keep=keep,
            progress=advance,
        )
    print(json.dumps(report, indent=2) if as_json else chain_markdown(report))


@evaluate_app.command(cls=HoldingCommand)
def retrieval(
    data: DataOption,
    model: ModelArgument = None,
    split: SplitOption = "test",
    device: DeviceOption = "auto",
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Retrieve sounds by caption and captions by sound. Needs only the CLAP of a model."""
    from soundcrafter.evaluate.retrieval import evaluate_retrieval, retrieval_markdown
    from soundcrafter.hub import find_model
    from soundcrafter.store import open_folder

    folder = open_folder(find_model(model))
    with progress("evaluating", show=not as_json) as advance:
        report = evaluate_retrieval(folder, data, out, split=split, device=device, progress=advance)
    print(json.dumps(report, indent=2) if as_json else retrieval_markdown(report))


@evaluate_app.command(cls=HoldingCommand)
def composition(
    data: DataOption,
    model: ModelArgument = None,
    split: SplitOption = "test",
    limit: Annotated[
        int | None, typer.Option(help="Use only the first pairs of each kind, this many.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Sounds per scene.")] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Measure prompts for two sounds at once, and for one sound after the other.

    The detection thresholds always come from the split dev of the data.
    """
    from soundcrafter.evaluate.composition import evaluate_composition
    from soundcrafter.evaluate.composition_report import composition_markdown
    from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
    from soundcrafter.pipeline import SoundCrafter

    loaded = SoundCrafter.from_pretrained(model, device, precision="fp32")
    with progress("evaluating", show=not as_json) as advance:
        report = evaluate_composition(
            loaded,
            data,
            out,
            split=split,
            seeds=seeds,
            seed=seed,
            limit=limit,
            tagger=TaggerEmbedder.bundled(loaded.device),
            progress=advance,
        )
    print(json.dumps(report, indent=2) if as_json else composition_markdown(report))


@evaluate_app.command(cls=HoldingCommand)
def folders(
    generated: Annotated[Path, typer.Argument(help="Folder of generated sounds.")],
    data: DataOrNone = None,
    split: SplitOrNone = None,
    reference: ReferenceOption = None,
    mixed_rates: MixedRatesFlag = False,
    paired: Annotated[
        bool, typer.Option("--paired", help="Require the same file names on both sides.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    embedder: EmbeddersOption = None,
    checkpoint: CheckpointOption = None,
    sha256: HashOption = None,
    splits: SplitsOption = 10,
    device: DeviceOption = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Compare a folder of sounds with real ones: FD, KID, IS, KL, density, coverage."""
    from soundcrafter.device import choose_device
    from soundcrafter.evaluate.compare import compare_markdown
    from soundcrafter.evaluate.run import evaluate_folders
    from soundcrafter.evaluate.sound_files import find_sounds

    chosen, torch_device = choose_embedders(embedder, checkpoint, sha256), choose_device(device)
    # with --data, --mixed-rates is about the generated sounds alone
    real = find_real(data, split, reference, mixed_rates and reference is not None)
    opened = [open_one(device=torch_device) for open_one in chosen]
    made = find_sounds(generated, mixed_rates=mixed_rates)
    with progress("evaluating", show=not as_json) as advance:
        report = evaluate_folders(
            made, real, opened, out, splits=splits, seed=seed, paired=paired, progress=advance
        )
    print(json.dumps(report, indent=2) if as_json else compare_markdown(report))


evaluate_app.command("listen")(listen)
evaluate_app.command("listen-results")(listen_results)
