"""One optimiser step of each stage at the paper's size: time and peak memory.

    python benchmarks/full_size.py --data ../shared/data

takes recipes/paper.toml as it is, with and without gradient checkpointing and autocast to bf16; a
process of its own for each row. The step is the training loop's: drawing and decoding the sounds is
not in it; the frozen encoders of the U-Net (of random weights, which cost what trained ones do),
both networks of a GAN, AdamW and EMA are. The peak is the process's, Python and torch included. A
row that needs more than --limit-gb of memory says so. Prints a table.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from soundcrafter.store import save_part
from soundcrafter.text import Tokenizer
from soundcrafter.train import Recipe, build_stage, read_recipe
from soundcrafter.train.ema import Ema
from soundcrafter.train.engine import Engine
from soundcrafter.train.loop import train_step
from soundcrafter.train.sources import is_encoded
from soundcrafter.train.stage import Stage

PAPER = Path(__file__).resolve().parents[1] / "recipes" / "paper.toml"
ADVERSARIAL = ("vae", "vocoder")
CHECKPOINTED = ("clap", "vae", "diffusion")


def save_encoders(recipe: Recipe, folder: Path) -> None:
    """VAE and CLAP of random weights, for the U-Net's training."""
    model = recipe.model
    save_part(folder, "vae", model.build("vae"), model.vae)
    audio = save_part(folder, "clap_audio", model.build("clap_audio"), model.clap_audio)
    save_part(
        folder,
        "clap_text",
        model.build("clap_text"),
        model.clap_text,
        trained_against={"clap_audio": audio},
        tokenizer=Tokenizer.train(["a dog barks"], model.clap_text.vocab_size),
    )


def ready(
    stage_name: str, recipe: Recipe, data: Path, device: str, *, compiled: bool = False
) -> tuple[Stage, Engine, Ema]:
    """A stage of random weights with its engine and its average, as the training loop has them."""
    with tempfile.TemporaryDirectory() as place:
        if stage_name == "diffusion" and not is_encoded(data):
            save_encoders(recipe, Path(place))
        stage = build_stage(stage_name, recipe, data, Path(place))
    engine = Engine(stage.loss_modules, stage.config, device, compile=compiled)
    return stage, engine, Ema(stage.network, stage.config.ema_decay)


def limit_memory(gigabytes: float) -> None:
    """Let this process allocate no more than that: what needs more fails, and not the machine."""
    limit = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def measure(stage_name: str, overrides: list[str], data: Path, device: str, repeats: int) -> dict:
    """Seconds of a step (the first one, and the mean of `repeats` more) and the peak in GB."""
    stage, engine, ema = ready(stage_name, read_recipe(PAPER, overrides), data, device)
    step = stage.phase_starts()[-1]  # a curriculum's last phase is the full size
    seconds = []
    for number in range(1 + repeats):
        loaded = [stage.load_batch(i) for i in engine.shard(stage.sample_indices(step + number))]
        began = time.perf_counter()
        losses = train_step(stage, engine, ema, loaded, step + number)
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if engine.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    return {
        "first": seconds[0],
        "mean": sum(seconds[1:]) / repeats if repeats else None,
        "peak": peak,
        "loss": losses["loss"],
    }


def row(args: argparse.Namespace, stage: str, checkpointing: bool, precision: str) -> str:
    """A line of the table, measured in a process of its own."""
    overrides = [f"{stage}.precision={precision}"]
    if stage in CHECKPOINTED:
        overrides.append(f"{stage}.checkpointing={str(checkpointing).lower()}")
    if stage in ADVERSARIAL:
        overrides.append(f"{stage}.adversarial_start=0")
    if args.batch_size:
        overrides.append(f"{stage}.batch_size={args.batch_size}")
    if args.accumulate > 1 and stage != "clap":
        overrides.append(f"{stage}.accumulate={args.accumulate}")
    config = getattr(read_recipe(PAPER, overrides), stage)
    command = [sys.executable, __file__, "--data", str(args.data), "--one", stage]
    command += ["--device", args.device, "--repeats", str(args.repeats)]
    command += ["--limit-gb", str(args.limit_gb), *(f"--set={o}" for o in overrides)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    size = f"{config.batch_size}" + (f" in {config.accumulate}" if config.accumulate > 1 else "")
    settings = f"| {stage} | {size} | {'yes' if checkpointing else 'no'} | {precision} |"
    if done.returncode:
        out_of_memory = "memory" in done.stderr or done.returncode < 0
        if not out_of_memory:
            raise RuntimeError(done.stderr)
        return f"{settings} over {args.limit_gb:g} | - |"
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{settings} {found['peak']:.1f} | {found['mean'] or found['first']:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", default=["clap", "vae", "vocoder", "diffusion"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=0, help="steps after the first one")
    parser.add_argument("--batch-size", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--limit-gb", type=float, default=18.0)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        if args.device == "cpu":
            limit_memory(args.limit_gb)
        print(json.dumps(measure(args.one, args.set, args.data, args.device, args.repeats)))
        return
    print("| stage | batch | checkpointing | precision | peak, GB | seconds a step |")
    print("|---|---|---|---|---|---|")
    for stage in args.stages:
        for checkpointing in (False, True) if stage in CHECKPOINTED else (False,):
            for precision in args.precisions:
                print(row(args, stage, checkpointing, precision), flush=True)


if __name__ == "__main__":
    main()
