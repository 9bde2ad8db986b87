"""The commands that generate sounds for prompts and compare them with real ones."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundcrafter.cli.common import DeviceOption, JsonFlag, progress
from soundcrafter.cli.evaluate_options import (
    OUT,
    CheckpointOption,
    DataOption,
    DataOrNone,
    EmbeddersOption,
    HashOption,
    KeepOption,
    LimitOption,
    MixedRatesFlag,
    ModelArgument,
    OutOption,
    ProcessesOption,
    ReferenceOption,
    SeedOption,
    SeedsOption,
    SplitOption,
    SplitOrNone,
    SplitsOption,
    choose_embedders,
    find_real,
)
from soundcrafter.cli.ray_options import (
    RayOption,
    RayOptions,
    WorkerCpusOption,
    WorkersOption,
    optional_workers,
    progress_lines,
)

if TYPE_CHECKING:
    from soundcrafter.evaluate.embedders import OpenEmbedder
    from soundcrafter.evaluate.prompt_sets import Prompt
    from soundcrafter.evaluate.sound_files import SoundFiles


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
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
) -> None:
    """Generate sounds for the captions of a split, and compare them with its recordings.

    Reports FD, KID, IS, KL, density, coverage and the CLAP score, and writes report.html.
    """
    from soundcrafter.evaluate.prompt_sets import caption_prompts
    from soundcrafter.evaluate.sound_files import find_recordings

    _evaluate(
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
        ray=RayOptions.of(ray, workers, worker_cpus),
    )


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
    from soundcrafter.evaluate.prompt_sets import family_prompts

    _evaluate(
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
    from soundcrafter.evaluate.prompt_sets import free_prompts

    _evaluate(
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
    from soundcrafter.evaluate.prompt_sets import read_prompts

    _evaluate(
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


def _evaluate(
    model: str | None,
    prompts: "Sequence[Prompt]",
    real: "SoundFiles",
    embedders: "list[OpenEmbedder]",
    out: Path,
    *,
    device: str,
    processes: int | None,
    as_json: bool,
    limit: int | None,
    seeds: int,
    seed: int,
    ray: RayOptions | None = None,
    **options: Any,
) -> None:
    """Evaluate a model on prompts with several processes; write its page and print the report.

    `options` are further ones of `evaluate_prompts`.
    """
    from soundcrafter.bench.machine import machine_facts
    from soundcrafter.evaluate.compare import compare_markdown
    from soundcrafter.evaluate.generate import draw_prompts, plan_batches
    from soundcrafter.evaluate.jobs import open_models
    from soundcrafter.evaluate.run import evaluate_prompts
    from soundcrafter.reports.html import write_html
    from soundcrafter.workers import Workers, share_cores

    if ray is not None and processes is not None:
        raise ValueError("--processes cannot be combined with --ray; use --workers")
    batches = plan_batches(draw_prompts(prompts, limit, seed), seeds, seed)
    opened = partial(open_models, model, device, embedders)
    models = opened()
    count, threads = share_cores(processes, models.model.device, len(batches))
    here = Workers(count, threads, opened) if count > 1 else None
    with (
        optional_workers(ray, opened, device) as elsewhere,
        progress("evaluating", show=not as_json and ray is None) as bar,
    ):
        advance = bar if ray is None else progress_lines("evaluated", show=not as_json)
        report = evaluate_prompts(
            models.model,
            prompts,
            real,
            models.embedders,
            out,
            name=_model_name(model),
            limit=limit,
            seeds=seeds,
            seed=seed,
            workers=here if ray is None else elsewhere,
            machine=machine_facts(models.model.device),
            progress=advance,
            **options,
        )
        write_html([out], out / "report.html", advance, timing=False)
    print(json.dumps(report, indent=2) if as_json else compare_markdown(report))


def _model_name(model: str | None) -> str:
    """The name of a model in tables."""
    from soundcrafter.hub import BUNDLED

    if model is None or model == BUNDLED:
        return "mini (bundled)"
    return Path(model).resolve().name if Path(model).exists() else model
