"""Curricula at equal compute: loss at full resolution against seconds of one core.

    python benchmarks/curriculum.py --data ../shared/data --out runs/curriculum

trains the small U-Net of recipes/curriculum.toml without a curriculum and with both readings of
the paper's (recipes/paper.toml, recipes/paper-full-grid.toml), three seeds each, on the `train`
recordings of a manifest, with the bundled model's VAE and CLAP. Seconds are CPU time of a process
with one thread, so that other work on the machine counts for little. Each run gets the same budget:
its steps follow from the seconds that a step of each phase takes, measured before. The denoising
loss of the averaged weights is taken on the `dev` recordings, with the same noise for all.
Writes report.json and curriculum.png. Run again, it goes on with what is missing.
"""

import argparse
import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcrafter.files import read_json, write_json
from soundcrafter.hub import find_model
from soundcrafter.plots import plot_lines
from soundcrafter.train import Recipe, RunOptions, build_stage, read_recipe, train
from soundcrafter.train.checkpoint import list_checkpoints, load_checkpoint, run_folder
from soundcrafter.train.encode import encode_data
from soundcrafter.train.engine import Engine

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
# reading -> the recipe whose phases it takes
READINGS = {"none": None, "pooled grid": "paper.toml", "full grid": "paper-full-grid.toml"}
LOOKS = 8  # times that a run is measured
DEV_SAMPLES = 296  # of the dev recordings, each about twice


def recipe_of(reading: str, *overrides: str) -> Recipe:
    """The small recipe with a reading's phases."""
    source = READINGS[reading]
    phases = read_recipe(RECIPES / source).diffusion.curriculum if source else ()
    recipe = read_recipe(RECIPES / "curriculum.toml", overrides)
    return dataclasses.replace(
        recipe, diffusion=dataclasses.replace(recipe.diffusion, curriculum=phases)
    )


def encoded(out: Path, reading: str) -> Path:
    """Where a reading's latents are; those without a curriculum are in each of the others."""
    return out / ("pooled-grid" if reading == "none" else reading.replace(" ", "-"))


def encode(data: Path, out: Path, reading: str) -> None:
    torch.set_num_threads(1)
    model = find_model(None)
    if reading == "none":
        dev = recipe_of(reading, "data.split=dev", "data.balance=none")
        encode_data(dev, data, model, out / "dev", dtype="float16")
    else:
        encode_data(recipe_of(reading), data, model, encoded(out, reading), dtype="float16")


def step_seconds(out: Path, reading: str, repeats: int = 12) -> list[float]:
    """CPU seconds of a training step in each phase."""
    stage = build_stage("diffusion", recipe_of(reading), encoded(out, reading), out / "nowhere")
    engine = Engine(stage.loss_modules, stage.config, "cpu")
    seconds = []
    for first in stage.phase_starts():
        for number in range(repeats + 2):
            if number == 2:  # the first steps allocate
                began = time.process_time()
            batch = stage.load_batch(stage.sample_indices(first + number))
            batch = stage.prepare(batch, engine.device)
            engine.update("unet", [batch], first + number, {})
        seconds.append((time.process_time() - began) / repeats)
    return seconds


def train_one(out: Path, reading: str, seed: int, steps: int) -> dict[str, Any]:
    """One run, and the loss on dev at LOOKS places of it."""
    torch.set_num_threads(1)
    folder = out / f"{reading.replace(' ', '-')}-{seed}"
    done = folder / "result.json"
    every = steps // LOOKS
    if done.is_file() and read_json(done)["steps"] == every * LOOKS:
        return dict(read_json(done))
    shutil.rmtree(folder, ignore_errors=True)  # half done: its seconds are lost
    recipe = recipe_of(reading, f"diffusion.steps={every * LOOKS}", f"diffusion.seed={seed}")
    began, seconds = time.process_time(), [0.0]
    train(
        "diffusion",
        recipe,
        data=encoded(out, reading),
        out=folder,
        options=RunOptions(
            device="cpu",
            log_steps=every,
            checkpoint_steps=every,
            checkpoint_minutes=1e6,
            keep=LOOKS,
        ),
        report=lambda _: seconds.append(time.process_time() - began),
    )
    result = {"reading": reading, "seed": seed, "steps": every * LOOKS, "seconds": seconds[1:]}
    checkpoints = list_checkpoints(run_folder(folder, "diffusion"))
    weights = [load_checkpoint(checkpoint)[0]["ema"] for checkpoint in checkpoints]
    result["loss"] = [dev_loss(out, tensors) for tensors in weights]
    write_json(done, result)
    return result


@torch.no_grad()
def dev_loss(out: Path, weights: dict[str, torch.Tensor]) -> float:
    """Mean denoising loss at full resolution over the dev recordings; no condition is dropped."""
    changes = ("data.split=dev", "data.balance=none", "diffusion.drop_condition=0")
    stage = build_stage("diffusion", recipe_of("none", *changes), out / "dev", out / "nowhere")
    (module,) = stage.loss_modules.values()
    module.network.load_state_dict(weights)
    module.eval()
    size, losses = stage.config.batch_size, []
    for first in range(0, DEV_SAMPLES // size * size, size):
        batch = stage.load_batch(range(first, first + size))
        terms, _ = module(stage.prepare(batch, torch.device("cpu")), 0)
        losses.append(float(terms["denoising"]))
    return float(np.mean(losses))


def summary(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line a reading: loss at the end, mean and range over seeds."""
    lines = []
    for reading in READINGS:
        found = [result for result in results if result["reading"] == reading]
        ends = [result["loss"][-1] for result in found]
        seconds = [result["seconds"][-1] for result in found]
        lines.append(
            f"{reading}: {found[0]['steps']} steps, {np.mean(seconds):.0f} s, loss on dev "
            f"{np.mean(ends):.4f} ({min(ends):.4f} to {max(ends):.4f})"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--seconds", type=float, default=480.0, help="CPU seconds of a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(encode, args.data, args.out, reading) for reading in READINGS]:
            job.result()
        plan = args.out / "plan.json"
        if not plan.is_file():
            torch.set_num_threads(1)
            write_json(plan, {name: step_seconds(args.out, name) for name in READINGS})
        speed = read_json(plan)
        jobs = []
        for seed in range(args.seeds):
            for reading in READINGS:
                phases = recipe_of(reading).diffusion.curriculum
                shares = [phase.share for phase in phases] or [1.0]
                step = sum(s * t for s, t in zip(shares, speed[reading], strict=True))
                steps = round(args.seconds / step)
                jobs.append(pool.submit(train_one, args.out, reading, seed, steps))
        results = [job.result() for job in jobs]
    write_json(args.out / "report.json", {"step_seconds": speed, "runs": results})
    curves = {}
    for reading in READINGS:
        found = [result for result in results if result["reading"] == reading]
        seconds = np.mean([result["seconds"] for result in found], axis=0)
        curves[reading] = (seconds, np.array([result["loss"] for result in found]))
    plot_lines(
        {"": curves},
        args.out / "curriculum.png",
        x="seconds of one core",
        y="loss on dev, full resolution",
    )
    print(json.dumps(speed), *summary(results), sep="\n")


if __name__ == "__main__":
    main()
