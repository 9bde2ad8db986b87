"""Samples a second of each training stage, as it trains and plainly, and whether it waits for data.

    python benchmarks/training_speed.py --data ../shared/data --recipe recipes/mini.toml

As trained: the recipe's precision and checkpointing, recordings decoded before (in the cache of
--set data.cache_gb), latents encoded before (the U-Net's), one thread that loads. Plain: fp32,
everything decoded and encoded for each step, nothing compiled. Between them one switch at a time,
the rest as trained. On a CPU without bf16 instructions all is fp32 and bf16 is left out, unless
--bf16 asks for it; --compile adds the compiled U-Net.

A turn is a fresh process that trains from random weights: --warmup steps, then --steps that count.
All settings take their turn, --repeats times over, so that a busy machine is fair to all; a ratio
is the median of those within a round. A step is the training loop's, in the last phase of a
curriculum, with both networks of a GAN (--set vae.adversarial_start=N: the VAE alone). What it
waits for is the time until its batch is there. The loader alone is timed in the same turn, before:
what it could deliver with the cores to itself. Each file was read once before, so a slow disk is
not in it; encoded latents are random ones of a few recordings, which cost what others do.
A setting that needs more than --limit-gb of a CPU's memory says so. Prints two tables; --out writes
every turn as JSON.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from full_size import CHECKPOINTED, limit_memory, ready
from torch import Tensor

from soundcrafter.data.dataset import Sounds
from soundcrafter.data.latent_writer import encode_latents
from soundcrafter.data.prefetch import prefetch
from soundcrafter.device import choose_device
from soundcrafter.files import write_json
from soundcrafter.precision import cpu_has_bf16
from soundcrafter.train import GENERATOR_STAGES, Recipe, read_recipe
from soundcrafter.train.loop import train_step
from soundcrafter.train.sounds import open_sounds
from soundcrafter.train.sources import encoded_folder, segment

MINI = Path(__file__).resolve().parents[1] / "recipes" / "mini.toml"
CHILDREN = get_context("forkserver")  # clean ones, with what takes seconds to import
CHILDREN.set_forkserver_preload(["soundcrafter.train", "torch._dynamo"])
ENCODED = 32  # recordings that the latents are of


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a stage trains: what is switched."""

    precision: str
    kept: bool  # recordings decoded, and the U-Net's latents encoded, before
    checkpointing: bool
    workers: int  # threads that load
    compiled: bool

    def __str__(self) -> str:
        return ", ".join(
            [
                self.precision,
                "kept" if self.kept else "decoded",
                *["checkpointing"] * self.checkpointing,
                f"workers {self.workers}",
                *["compiled"] * self.compiled,
            ]
        )


def as_trained(stage: str, recipe: Recipe, bf16: bool) -> Setting:
    config = getattr(recipe, stage)
    return Setting(
        precision=config.precision if bf16 else "fp32",
        kept=True,
        checkpointing=getattr(config, "checkpointing", False),
        workers=1,
        compiled=False,
    )


def switches(
    stage: str, trained: Setting, bf16: bool, compiled: bool
) -> dict[str, tuple[Setting, Setting]]:
    """Name -> the settings that are compared: the first one's speed over the second one's."""
    pairs = {
        "as trained / plain": (trained, replace(trained, precision="fp32", kept=False)),
        "kept / decoded": (trained, replace(trained, kept=False)),
        "1 worker / none": (trained, replace(trained, workers=0)),
        "2 workers / 1": (replace(trained, workers=2), trained),
    }
    if bf16:
        pairs["bf16 / fp32"] = (
            replace(trained, precision="bf16"),
            replace(trained, precision="fp32"),
        )
    if stage in CHECKPOINTED:
        pairs["checkpointing / none"] = (
            replace(trained, checkpointing=True),
            replace(trained, checkpointing=False),
        )
    if stage == "diffusion" and compiled:
        pairs["compiled / not"] = (replace(trained, compiled=True), trained)
    return pairs


def recipe_for(args: argparse.Namespace, stage: str, setting: Setting | None = None) -> Recipe:
    """The recipe, in a setting if there is one."""
    overrides = ["vae.adversarial_start=0", "vocoder.adversarial_start=0", *args.set]
    if setting is None:
        return read_recipe(args.recipe, overrides)
    overrides.append(f"{stage}.precision={setting.precision}")
    if stage in CHECKPOINTED:
        overrides.append(f"{stage}.checkpointing={str(setting.checkpointing).lower()}")
    if stage == "diffusion" and setting.kept:
        overrides.append("data.variants=1")  # what is encoded is finite
    elif not setting.kept:
        overrides.append("data.cache_gb=0")
    return read_recipe(args.recipe, overrides)


def encode_few(recipe: Recipe, data: Path, out: Path) -> None:
    """Random latents and embeddings of a few recordings, for each phase of the U-Net's training."""
    mel, width = recipe.model.vae.mel, recipe.model.unet.embed_dim
    phases = recipe.diffusion.phases().phases
    with_text = recipe.diffusion.text_share > 0
    for phase in phases:
        num_samples, shape = segment(recipe, phase.config)
        every = open_sounds(
            data,
            recipe.data,
            mel=mel,
            num_samples=num_samples,
            seed=recipe.diffusion.seed,
            need_caption=with_text,
            finite=True,
        )
        few = replace(every.manifest, recordings=every.manifest.recordings[:ENCODED])

        def posterior(wave: Tensor, shape: tuple[int, int, int] = shape) -> tuple[Tensor, Tensor]:
            return torch.randn(len(wave), *shape), torch.zeros(len(wave), *shape)

        encode_latents(
            Sounds(
                few,
                every.config,
                sample_rate=every.sample_rate,
                num_samples=num_samples,
                seed=every.seed,
            ),
            encoded_folder(out, phase, phases[-1]),
            posterior=posterior,
            embed_audio=lambda wave: torch.randn(len(wave), width),
            embed_text=(lambda captions: torch.randn(len(captions), width)) if with_text else None,
            metadata={
                "vae": "",
                "clap_audio": "",
                "clap_text": "",
                "latent_scale": 1.0,
                "pool": phase.config.pool,
            },
        )


def turn(args: argparse.Namespace, stage_name: str, setting: Setting, data: Path) -> dict[str, Any]:
    """Samples a second, those of the steps alone and of the loader alone, and the share of the
    time that was spent waiting for data."""
    if choose_device(args.device).type == "cpu":
        limit_memory(args.limit_gb)
    recipe = recipe_for(args, stage_name, setting)
    stage, engine, ema = ready(stage_name, recipe, data, args.device, compiled=setting.compiled)
    first = stage.phase_starts()[-1]  # a curriculum's last phase is the full size
    steps = range(first, first + args.warmup + args.steps)

    def load(step: int) -> list[dict[str, Any]]:
        return [stage.load_batch(i) for i in engine.shard(stage.sample_indices(step))]

    def batches() -> Iterable[list[dict[str, Any]]]:
        return prefetch(load, steps, setting.workers, max(1, 2 * setting.workers))

    size = len(stage.sample_indices(first))
    for step in steps:  # into the cache, if there is one
        load(step)
    began = time.perf_counter()
    for _ in batches():
        pass
    loading = time.perf_counter() - began
    waited = 0.0
    with closing(batches()) as loaded:
        for step in steps:
            if step == first + args.warmup:
                began, waited = now(engine.device), 0.0
            asked = time.perf_counter()
            batch = next(loaded)
            waited += time.perf_counter() - asked
            train_step(stage, engine, ema, batch, step)
        seconds = now(engine.device) - began
    return {
        "samples_per_second": args.steps * size / seconds,
        "step_alone": args.steps * size / (seconds - waited),
        "loader_alone": len(steps) * size / loading,
        "waiting": waited / seconds,
    }


def now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_child(function: Any, *arguments: Any) -> Any:
    """What the function returns in a process of its own; None where that has too little memory."""
    try:
        with ProcessPoolExecutor(1, mp_context=CHILDREN) as pool:
            return pool.submit(function, *arguments).result()
    except (BrokenProcessPool, MemoryError):
        return None
    except (RuntimeError, OSError, ImportError) as error:
        # a thread's stack and a library that is loaded late are memory too
        shortages = ("memory", "start new thread", "failed to map segment")
        if not any(words in str(error) for words in shortages):
            raise
        return None


def measure(args: argparse.Namespace, stage: str, bf16: bool, place: Path) -> dict[str, Any]:
    """All settings of a stage in turn, and the ratios between them."""
    trained = as_trained(stage, recipe_for(args, stage), bf16)
    pairs = switches(stage, trained, bf16, args.compile)
    settings = list(dict.fromkeys(setting for pair in pairs.values() for setting in pair))
    encoded = place / "encoded"
    if stage == "diffusion":
        in_child(encode_few, recipe_for(args, stage, trained), args.data, encoded)
    turns: dict[Setting, list[dict[str, Any]]] = {setting: [] for setting in settings}
    for number in range(args.repeats):
        for setting in settings:
            data = encoded if stage == "diffusion" and setting.kept else args.data
            if len(turns[setting]) < number:
                continue  # it had too little memory
            found = in_child(turn, args, stage, setting, data)
            turns[setting] += [found] if found is not None else []
    return {
        "batch_size": getattr(recipe_for(args, stage), stage).batch_size,
        "ratios": {name: ratio(turns[a], turns[b]) for name, (a, b) in pairs.items()},
        "settings": [
            {"name": str(setting), **asdict(setting), "turns": found}
            for setting, found in turns.items()
        ],
    }


def ratio(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> float | None:
    key = "samples_per_second"
    ratios = [a[key] / b[key] for a, b in zip(first, second, strict=False)]
    return statistics.median(ratios) if ratios else None


def middle(turns: list[dict[str, Any]], key: str) -> float:
    return statistics.median(found[key] for found in turns)


def print_ratios(stages: dict[str, dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for found in stages.values() for name in found["ratios"]))
    data = ["loader alone / step alone", "waiting for data"]  # as trained
    print("| stage | batch |", " | ".join([*names, *data]), "|")
    print("|---" * (len(names) + 4) + "|")
    for stage, found in stages.items():
        ratios = [found["ratios"].get(name) for name in names]
        cells = ["-" if value is None else f"{value:.2f}" for value in ratios]
        turns = found["settings"][0]["turns"]
        if turns:
            spare = middle(turns, "loader_alone") / middle(turns, "step_alone")
            cells += [f"{spare:.3g}", f"{middle(turns, 'waiting'):.1%}"]
        else:
            cells += ["-", "-"]
        print("|", " | ".join([stage, str(found["batch_size"]), *cells]), "|")


def print_settings(stages: dict[str, dict[str, Any]], limit_gb: float) -> None:
    print("| stage | setting | samples/s (least, most) | step alone | loader alone | waiting |")
    print("|---" * 6 + "|")
    for stage, found in stages.items():
        for setting in found["settings"]:
            turns, start = setting["turns"], f"| {stage} | {setting['name']} |"
            if not turns:
                print(start, f"over {limit_gb:g} GB | - | - | - |")
                continue
            speeds = [one["samples_per_second"] for one in turns]
            print(
                start,
                f"{statistics.median(speeds):.3g} ({min(speeds):.3g}, {max(speeds):.3g})",
                f"| {middle(turns, 'step_alone'):.3g} | {middle(turns, 'loader_alone'):.3g}",
                f"| {middle(turns, 'waiting'):.1%} |",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=MINI)
    parser.add_argument("--set", action="append", default=[], help="section.name=value")
    parser.add_argument("--stages", nargs="+", choices=GENERATOR_STAGES, default=GENERATOR_STAGES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warmup", type=int, default=1, help="steps before those that count")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each setting")
    parser.add_argument("--bf16", action="store_true", help="on a CPU that has no bf16 too")
    parser.add_argument("--compile", action="store_true", help="the compiled U-Net too")
    parser.add_argument("--limit-gb", type=float, default=18.0)
    parser.add_argument("--out", type=Path, help="JSON of every turn")
    args = parser.parse_args()
    device = choose_device(args.device)
    bf16 = args.bf16 or device.type != "cpu" or cpu_has_bf16()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    machine = f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    print(
        f"{args.recipe.name}, {machine}, torch {torch.__version__}; "
        f"{args.repeats} turns of {args.steps} steps after {args.warmup}",
        *[] if bf16 else ["This CPU has no bf16 instructions: all is fp32 (--bf16 forces it)."],
        sep="\n",
    )
    stages = {}
    for stage in args.stages:
        with tempfile.TemporaryDirectory() as place:
            stages[stage] = measure(args, stage, bf16, Path(place))
    print_ratios(stages)
    print()
    print_settings(stages, args.limit_gb)
    if args.out:
        options = {name: str(value) for name, value in vars(args).items()}
        write_json(args.out, {"options": options, "machine": machine, "stages": stages})


if __name__ == "__main__":
    main()
