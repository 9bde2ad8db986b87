"""The command that measures sounds and models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundcrafter.cli.common import DeviceOption, JsonFlag, progress

if TYPE_CHECKING:
    from soundcrafter.evaluate.embedding import Embedder

Advance = Callable[[int, int], None]
Measured = tuple[dict[str, Any], str]  # the report, and its text


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
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="Find sounds by caption, captions by sound.")
    ] = False,
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
    """Measure sounds against real ones, a model link by link, or what its CLAP finds."""
    ways = [generated is not None, prompts is not None, chain, retrieval]
    if sum(ways) != 1:
        raise ValueError(
            "evaluate: give one of --generated DIR, --prompts FILE, --chain and --retrieval"
        )
    if chain and data is None:
        raise ValueError("--chain: needs --data, real recordings with their families")
    if retrieval and (data is None or reference is not None):
        raise ValueError("--retrieval: needs --data, recordings with captions, and no --reference")
    if not (chain or retrieval) and (reference is None) == (data is None):
        raise ValueError("evaluate: give real sounds, --reference DIR or --data with --split")
    with progress("evaluating", show=not as_json) as advance:
        if data is not None and retrieval:
            report, text = _retrieval(model, data, split, out, device, advance)
        elif data is not None and chain:
            report, text = _chain(
                model, data, split, out, 2 if seeds is None else seeds, seed, device, advance
            )
        else:
            from soundcrafter.evaluate.compare import compare_markdown, find_recordings, find_sounds
            from soundcrafter.evaluate.run import evaluate_folders, evaluate_prompts, prompts_named
            from soundcrafter.pipeline import SoundCrafter

            wanted = prompts_named(prompts, data, split) if prompts is not None else ()
            opened = _open_embedders(embedder, checkpoint, sha256)
            if data is not None:
                real = find_recordings(data, split)
            else:
                assert reference is not None
                real = find_sounds(reference, mixed_rates=mixed_rates)
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
                report = evaluate_prompts(
                    SoundCrafter.from_pretrained(model, device, precision="fp32"),
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


def _retrieval(
    model: str | None, data: Path, split: str, out: Path, device: str, advance: Advance
) -> Measured:
    """What the model's CLAP finds. Its other parts are not loaded, and may not be there yet."""
    from soundcrafter.evaluate.retrieval import evaluate_retrieval, retrieval_markdown
    from soundcrafter.hub import find_model
    from soundcrafter.store import open_folder

    report = evaluate_retrieval(
        open_folder(find_model(model)), data, out, split=split, device=device, progress=advance
    )
    return report, retrieval_markdown(report)


def _chain(
    model: str | None,
    data: Path,
    split: str,
    out: Path,
    seeds: int,
    seed: int,
    device: str,
    advance: Advance,
) -> Measured:
    """The model link by link."""
    from soundcrafter.evaluate.chain import chain_markdown, evaluate_chain
    from soundcrafter.pipeline import SoundCrafter

    crafter = SoundCrafter.from_pretrained(model, device, precision="fp32")
    report = evaluate_chain(
        crafter, data, out, split=split, seeds=seeds, seed=seed, progress=advance
    )
    return report, chain_markdown(report)


def _open_embedders(
    names: list[str] | None, checkpoint: list[str] | None, sha256: list[str] | None
) -> "Sequence[Embedder]":
    """The embedders by name (tagger and clap where none is named), with their given weights."""
    from soundcrafter.evaluate.embedders import open_embedder

    weights, hashes = _pairs("--checkpoint", checkpoint), _pairs("--sha256", sha256)
    names = names or ["tagger", "clap"]
    unused = sorted({*weights, *hashes} - set(names))
    if unused:
        raise ValueError(f"--checkpoint, --sha256: no --embedder {', '.join(unused)}")
    return [
        open_embedder(
            name,
            checkpoint=Path(weights[name]) if name in weights else None,
            sha256=hashes.get(name),
        )
        for name in names
    ]


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a dict."""
    for text in given or ():
        if not all(text.partition("=")):
            raise ValueError(f"{option}: got {text!r}; expected NAME=VALUE")
    return {text.partition("=")[0]: text.partition("=")[2] for text in given or ()}
