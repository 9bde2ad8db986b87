"""Commands that train a part, and look at what was trained."""

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import DataOption, DeviceOption, JsonFlag, RecipeOption, SetOption


class StageName(StrEnum):
    """The trainings: the text tower alone, the four parts, the tagger that judges them."""

    text = "text"
    clap = "clap"
    vae = "vae"
    vocoder = "vocoder"
    diffusion = "diffusion"
    tagger = "tagger"


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


def _log_line(stage: str, entry: Mapping[str, Any], total: int) -> str:
    hidden = ("step", "learning_rate", "samples_per_second", "seconds")
    losses = "  ".join(f"{key} {value:.4g}" for key, value in entry.items() if key not in hidden)
    speed = entry["samples_per_second"]
    return f"{stage} {entry['step']}/{total}  {losses}  {speed:.1f} samples/s"
