"""Commands that train a part or show how a training went."""

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import (
    AllowUnfinishedFlag,
    DataOption,
    DeviceOption,
    JsonFlag,
    RecipeOption,
    SetOption,
    step_progress,
)


class StageName(StrEnum):
    """The stages; see train/stages.py, which this module must not import: it imports torch."""

    text = "text"
    clap = "clap"
    vae = "vae"
    vocoder = "vocoder"
    diffusion = "diffusion"
    distill = "distill"
    tagger = "tagger"


def train(
    stage: Annotated[StageName, typer.Argument(help="Part to train.")],
    recipe: RecipeOption,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Model folder, one for all stages.")],
    init: Annotated[
        str | None, typer.Option(help="Model to start from: folder, hub name or bundled.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="Train a LoRA adapter of this rank for --init's U-Net.")
    ] = None,
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
    minutes: Annotated[float | None, typer.Option(help="Stop after so long; resumable.")] = None,
    fsdp: Annotated[
        bool, typer.Option("--fsdp", help="Shard the U-Net over torchrun's processes.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the U-Net; slow to start.")
    ] = False,
    score_steps: Annotated[
        int, typer.Option(help="Steps between scores (FD, IS) of generated sounds; 0: none.")
    ] = 0,
    score_data: Annotated[
        Path | None, typer.Option(help="Manifest of captions and real sounds.")
    ] = None,
    score_split: Annotated[str, typer.Option(help="Split of --score-data.")] = "dev",
    score_prompts: Annotated[
        int, typer.Option(help="Number of captions; always the same ones.")
    ] = 64,
    score_embedder: Annotated[
        str, typer.Option(help="tagger, panns-16k, panns-32k, vggish, aisfx.")
    ] = "tagger",
    score_checkpoint: Annotated[
        Path | None, typer.Option(help="The embedder's weights, if not bundled.")
    ] = None,
    allow_unfinished: AllowUnfinishedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Train one part; run the same command again to resume."""
    from soundcrafter.hub import find_model
    from soundcrafter.train import RunOptions, TrainingInterrupted, read_recipe, settings_base
    from soundcrafter.train import train as run_training
    from soundcrafter.train.score import ScoreOptions

    start = find_model(init) if init is not None else None
    settings = read_recipe(recipe, overrides or (), settings_base(stage.value, start, out))
    score = None
    if score_steps:
        if score_data is None:
            raise ValueError("--score-steps: needs --score-data")
        score = ScoreOptions(
            steps=score_steps,
            data=score_data,
            split=score_split,
            prompts=score_prompts,
            embedder=score_embedder,
            checkpoint=score_checkpoint,
        )
    options = RunOptions(
        device=device,
        workers=workers,
        log_steps=log_steps,
        sample_steps=sample_steps,
        checkpoint_steps=checkpoint_steps,
        checkpoint_minutes=checkpoint_minutes,
        keep=keep,
        max_minutes=minutes,
        fsdp=fsdp,
        compile=compiled,
        score=score,
    )
    total = getattr(settings, stage.value).steps

    def report(entry: Mapping[str, Any]) -> None:
        print(json.dumps(entry) if as_json else _log_line(stage.value, entry, total), flush=True)

    try:
        with step_progress(stage.value, show=not as_json) as advance:
            done = run_training(
                stage.value,
                settings,
                data=data,
                out=out,
                options=options,
                init=start,
                lora=lora,
                report=report,
                progress=advance,
                allow_unfinished=allow_unfinished,
            )
    except TrainingInterrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    if not as_json:
        print(f"{stage.value}: {done} of {total} steps done, in {out}")
    for listed in sorted((out / "training").glob("*/skipped.json")):
        count = len(json.loads(listed.read_text(encoding="utf-8")))
        print(f"{count} recordings were skipped; see {listed}", file=sys.stderr)


def sprint(
    stage: Annotated[StageName, typer.Argument(help="vae, vocoder or diffusion.")],
    recipe: RecipeOption,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Model folder that the part is written into.")],
    minutes: Annotated[float, typer.Option(help="Training time after the data is loaded.")],
    init: Annotated[
        str | None, typer.Option(help="Model to start from: folder, hub name or bundled.")
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    log_steps: Annotated[int, typer.Option(help="Steps between log lines.")] = 100,
    allow_unfinished: AllowUnfinishedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Train one part for a fixed time, with all data in the memory of one GPU."""
    from soundcrafter.hub import find_model
    from soundcrafter.train import build_stage, read_recipe
    from soundcrafter.train.sprint import sprint as run_sprint
    from soundcrafter.train.stage import RESIDENT_STAGES

    if stage.value not in RESIDENT_STAGES:
        raise ValueError(f"stage: got {stage.value}; allowed: {', '.join(RESIDENT_STAGES)}")
    built = build_stage(stage.value, read_recipe(recipe, overrides or ()), data, out)

    def report(entry: Mapping[str, Any]) -> None:
        line = f"{_log_line(stage.value, entry, None)}  {entry['progress']:.0%}"
        print(json.dumps(entry) if as_json else line, flush=True)

    start = find_model(init) if init is not None else None
    done = run_sprint(
        built,
        out,
        minutes=minutes,
        device=device,
        init=start,
        log_steps=log_steps,
        report=report,
        allow_unfinished=allow_unfinished,
    )
    if not as_json:
        print(f"{stage.value}: {done} steps done, in {out}")


def plot(
    run: Annotated[Path, typer.Argument(help="Model folder that training wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures; default: the model's training/.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Plot losses, scores and spectrograms over the steps, and report where the time went."""
    from soundcrafter.files import write_json, write_text
    from soundcrafter.train.report import plot_training, report_markdown, training_report

    report, folder = training_report(run), out or run / "training"
    written = plot_training(run, folder)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", report_markdown(report))
    if as_json:
        print(json.dumps({**report, "pictures": [str(file) for file in written]}, indent=2))
        return
    print(report_markdown(report), *written, sep="\n")


def _log_line(stage: str, entry: Mapping[str, Any], total: int | None) -> str:
    from soundcrafter.train.log import MACHINE_FACTS

    if "scoring" in entry:
        return f"{stage} {entry['step']}  scoring sounds for {entry['scoring']} prompts ..."
    if "scores" in entry:
        scores = entry["scores"]
        named = ((name, scores[name]) for name in ("fd", "fd_floor", "is", "kl") if name in scores)
        figures = "  ".join(f"{name} {value:.4g}" for name, value in named)
        return f"{stage} {entry['step']}  scores: {figures}  in {scores['scoring_seconds']:.0f} s"
    hidden = ("step", "learning_rate", "progress", *MACHINE_FACTS)
    losses = "  ".join(f"{key} {value:.4g}" for key, value in entry.items() if key not in hidden)
    speed = entry["samples_per_second"]
    step = entry["step"] if total is None else f"{entry['step']}/{total}"
    return f"{stage} {step}  {losses}  {speed:.1f} samples/s"
