"""The commands that measure models and sounds, see docs/evaluation.md."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from soundcrafter.cli.common import DeviceOption, JsonFlag, named_values, progress
from soundcrafter.cli.listening import listen, listen_results

if TYPE_CHECKING:
    from soundcrafter.evaluate.embedders import EmbedderChoice
    from soundcrafter.evaluate.prompts import Prompt
    from soundcrafter.evaluate.sounds import SoundFiles

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
            for option, command in _FORMER.items():
                if option in given:
                    value = given[option] or [*args, ""][args.index(option) + 1]
                    if option == "--prompts" and value in ("captions", "families", "free"):
                        option, command = f"--prompts {value}", f"{value} [MODEL]"
                    raise ValueError(
                        f"evaluate {option} is now a command: soundcrafter evaluate {command}"
                    )
        return super().parse_args(ctx, args)


evaluate_app = typer.Typer(
    cls=_EvaluateGroup, help="Measure a model, or sounds, and run listening tests."
)

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
SplitOrNone = Annotated[str | None, typer.Option(help="Split of the data. [default: test]")]
OutOption = Annotated[Path, typer.Option(help="Folder for the report and the sounds.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the first sound and of all random draws.")]
SeedsOption = Annotated[int, typer.Option(help="Sounds per prompt.")]
LimitOption = Annotated[
    int | None,
    typer.Option(help="Use only this many prompts, drawn by --seed. All real sounds are used."),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(help="Processes. [default: one per core, at most 4; on a GPU 1]"),
]
KeepOption = Annotated[
    Path | None, typer.Option(help="Also copy each sound to FAMILY/NAME.wav below this folder.")
]
EmbeddersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--embedder",
        help="tagger, clap, panns-16k, panns-32k, vggish or aisfx. Repeatable. "
        "[default: tagger and clap]",
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


@evaluate_app.command()
def captions(
    data: DataOption,
    model: ModelArgument = None,
    random_caption: Annotated[
        bool,
        typer.Option(
            "--random-caption",
            help="For recordings with several captions, use one drawn by --seed, not the first.",
        ),
    ] = False,
    split: SplitOption = "test",
    limit: LimitOption = None,
    seeds: SeedsOption = 1,
    seed: SeedOption = 0,
    embedder: EmbeddersOption = None,
    checkpoint: CheckpointOption = None,
    sha256: HashOption = None,
    splits: SplitsOption = 10,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Generate sounds for the captions of a split, and compare them with its recordings.

    Reports FD, KID, IS, KL, density, coverage and the CLAP score, and writes report.html.
    """
    from soundcrafter.evaluate.prompts import caption_prompts
    from soundcrafter.evaluate.sounds import find_recordings

    _evaluate_prompts(
        model,
        caption_prompts(data, split, random_seed=seed if random_caption else None),
        find_recordings(data, split),
        choose_embedders(embedder, checkpoint, sha256),
        out,
        device=device,
        processes=processes,
        as_json=as_json,
        data=data,
        split=split,
        limit=limit,
        seeds=seeds,
        seed=seed,
        splits=splits,
    )


@evaluate_app.command()
def families(
    model: ModelArgument = None,
    data: DataOrNone = None,
    split: SplitOrNone = None,
    reference: ReferenceOption = None,
    mixed_rates: MixedRatesFlag = False,
    limit: LimitOption = None,
    seeds: SeedsOption = 1,
    seed: SeedOption = 0,
    embedder: EmbeddersOption = None,
    checkpoint: CheckpointOption = None,
    sha256: HashOption = None,
    splits: SplitsOption = 10,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    keep: KeepOption = None,
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Generate sounds for 208 frozen prompts, four per family.

    Reports how many are recognised as their family besides the metrics of `captions`, and with
    --data their variety and the share of copies of training recordings.
    """
    from soundcrafter.evaluate.prompts import family_prompts

    _evaluate_prompts(
        model,
        family_prompts(),
        find_real(data, split, reference, mixed_rates),
        choose_embedders(embedder, checkpoint, sha256),
        out,
        device=device,
        processes=processes,
        as_json=as_json,
        data=data,
        split=split or "test",
        limit=limit,
        seeds=seeds,
        seed=seed,
        splits=splits,
        keep=keep,
    )


@evaluate_app.command()
def free(
    model: ModelArgument = None,
    data: DataOrNone = None,
    split: SplitOrNone = None,
    reference: ReferenceOption = None,
    mixed_rates: MixedRatesFlag = False,
    limit: LimitOption = None,
    seeds: SeedsOption = 1,
    seed: SeedOption = 0,
    embedder: EmbeddersOption = None,
    checkpoint: CheckpointOption = None,
    sha256: HashOption = None,
    splits: SplitsOption = 10,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    keep: KeepOption = None,
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Generate sounds for 100 frozen prompts in free wording; otherwise like `families`."""
    from soundcrafter.evaluate.prompts import free_prompts

    _evaluate_prompts(
        model,
        free_prompts(),
        find_real(data, split, reference, mixed_rates),
        choose_embedders(embedder, checkpoint, sha256),
        out,
        device=device,
        processes=processes,
        as_json=as_json,
        data=data,
        split=split or "test",
        limit=limit,
        seeds=seeds,
        seed=seed,
        splits=splits,
        keep=keep,
    )


@evaluate_app.command()
def prompts(
    file: Annotated[
        Path,
        typer.Argument(help="csv (column prompt, optional column family), or a prompt per line."),
    ],
    model: ModelArgument = None,
    data: DataOrNone = None,
    split: SplitOrNone = None,
    reference: ReferenceOption = None,
    mixed_rates: MixedRatesFlag = False,
    limit: LimitOption = None,
    seeds: SeedsOption = 1,
    seed: SeedOption = 0,
    embedder: EmbeddersOption = None,
    checkpoint: CheckpointOption = None,
    sha256: HashOption = None,
    splits: SplitsOption = 10,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    keep: KeepOption = None,
    out: OutOption = OUT,
    as_json: JsonFlag = False,
) -> None:
    """Generate sounds for the prompts in a file; otherwise like `families`."""
    from soundcrafter.evaluate.prompts import read_prompts

    _evaluate_prompts(
        model,
        read_prompts(file),
        find_real(data, split, reference, mixed_rates),
        choose_embedders(embedder, checkpoint, sha256),
        out,
        device=device,
        processes=processes,
        as_json=as_json,
        data=data,
        split=split or "test",
        limit=limit,
        seeds=seeds,
        seed=seed,
        splits=splits,
        keep=keep,
    )


@evaluate_app.command()
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
    from soundcrafter.evaluate.chain import chain_markdown, evaluate_chain
    from soundcrafter.evaluate.codec import Codec, open_codec
    from soundcrafter.evaluate.tagger import Tagger
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
            tagger=Tagger.bundled(torch_device),
            keep=keep,
            progress=advance,
        )
    print(json.dumps(report, indent=2) if as_json else chain_markdown(report))


@evaluate_app.command()
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


@evaluate_app.command()
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
    from soundcrafter.evaluate.composition import composition_markdown, evaluate_composition
    from soundcrafter.evaluate.tagger import Tagger
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
            tagger=Tagger.bundled(loaded.device),
            progress=advance,
        )
    print(json.dumps(report, indent=2) if as_json else composition_markdown(report))


@evaluate_app.command()
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
    from soundcrafter.evaluate.sounds import find_sounds

    chosen, torch_device = choose_embedders(embedder, checkpoint, sha256), choose_device(device)
    # with --data, --mixed-rates is about the generated sounds alone
    real = find_real(data, split, reference, mixed_rates and reference is not None)
    opened = [choice.open(torch_device) for choice in chosen]
    made = find_sounds(generated, mixed_rates=mixed_rates)
    with progress("evaluating", show=not as_json) as advance:
        report = evaluate_folders(
            made, real, opened, out, splits=splits, seed=seed, paired=paired, progress=advance
        )
    print(json.dumps(report, indent=2) if as_json else compare_markdown(report))


evaluate_app.command("listen")(listen)
evaluate_app.command("listen-results")(listen_results)


def _evaluate_prompts(
    model: str | None,
    prompts: "Sequence[Prompt]",
    real: "SoundFiles",
    embedders: "list[EmbedderChoice]",
    out: Path,
    *,
    device: str,
    processes: int | None,
    as_json: bool,
    limit: int | None,
    seeds: int,
    seed: int,
    **options: Any,
) -> None:
    """Evaluate a model on prompts with several processes; write its page and print the report.

    `options` are further ones of `evaluate_prompts`.
    """
    from soundcrafter.bench.meter import machine_facts
    from soundcrafter.evaluate.compare import compare_markdown
    from soundcrafter.evaluate.generate import draw_prompts, plan_batches
    from soundcrafter.evaluate.jobs import open_tools
    from soundcrafter.evaluate.run import evaluate_prompts
    from soundcrafter.reports.html import write_html
    from soundcrafter.workers import Workers, share_cores

    batches = plan_batches(draw_prompts(prompts, limit, seed), seeds, seed)
    opened = partial(open_tools, model, device, embedders)
    tools = opened()
    count, threads = share_cores(processes, tools.model.device, len(batches))
    with progress("evaluating", show=not as_json) as advance:
        report = evaluate_prompts(
            tools.model,
            prompts,
            real,
            tools.embedders,
            out,
            name=_model_name(model),
            limit=limit,
            seeds=seeds,
            seed=seed,
            workers=Workers(count, threads, opened) if count > 1 else None,
            machine=machine_facts(tools.model.device),
            progress=advance,
            **options,
        )
        write_html([out], out / "report.html", advance)
    print(json.dumps(report, indent=2) if as_json else compare_markdown(report))


def find_real(
    data: Path | None, split: str | None, reference: Path | None, mixed_rates: bool
) -> "SoundFiles":
    """The real sounds of a comparison. ValueError unless exactly one source is given, and for
    options that belong to the other one."""
    from soundcrafter.evaluate.sounds import find_recordings, find_sounds

    if (data is None) == (reference is None):
        raise ValueError("evaluate: give real sounds, --reference DIR or --data with --split")
    if reference is not None:
        if split is not None:
            raise ValueError("--split: only with --data")
        return find_sounds(reference, mixed_rates=mixed_rates)
    assert data is not None
    if mixed_rates:
        raise ValueError("--mixed-rates: only with --reference")
    return find_recordings(data, split or "test")


def choose_embedders(
    names: list[str] | None, checkpoints: list[str] | None, hashes: list[str] | None
) -> "list[EmbedderChoice]":
    """The embedders (by default tagger and clap) with their given weights and hashes."""
    from soundcrafter.evaluate.embedders import EmbedderChoice

    files = named_values("--checkpoint", checkpoints)
    wanted = named_values("--sha256", hashes)
    names = names or ["tagger", "clap"]
    unused = sorted({*files, *wanted} - set(names))
    if unused:
        raise ValueError(f"--checkpoint, --sha256: no --embedder {', '.join(unused)}")
    return [
        EmbedderChoice(name, Path(files[name]) if name in files else None, wanted.get(name))
        for name in names
    ]


def _model_name(model: str | None) -> str:
    """The name of a model in tables."""
    from soundcrafter.hub import BUNDLED

    if model is None or model == BUNDLED:
        return "mini (bundled)"
    return Path(model).resolve().name if Path(model).exists() else model
