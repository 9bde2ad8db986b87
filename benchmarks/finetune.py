"""Fine-tuning on ten recordings of one family: what the loss does, whole and by an adapter.

    python benchmarks/finetune.py --data ../shared/data --family "drawer and cupboard" \
        --split test --out runs/finetune

The recordings are of a split that the model was not trained on. The loss is the denoising loss of
the same crops, noises and time steps before and after, of the ten recordings and of others of their
family. Each training is the command `soundcrafter train diffusion --recipe recipes/finetune.toml
--init MODEL`, with `--lora RANK` for the adapter.
"""

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

import torch

from soundcrafter.describe import describe
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.hub import find_model
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder
from soundcrafter.train import read_recipe
from soundcrafter.train.diffusion import DiffusionStage, denoising

COUNT = 10
RECIPE = "recipes/finetune.toml"


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    own, others = options.out / "own.csv", options.out / "others.csv"
    write_tables(options, own, others)
    model = find_model(options.model)
    print(f"{'':16}{'own':>10}{'others':>10}{'minutes':>10}{'parameters':>14}")
    size = describe(str(model))["parameters"]["unet"]
    report("as it was", model, {}, own, others, 0.0, size)
    for rank in (options.rank, None):
        name = "whole" if rank is None else f"lora {rank}"
        folder, began = options.out / name.replace(" ", "-"), time.monotonic()
        rate = options.learning_rate if rank is None else options.lora_learning_rate
        extra = [] if rank is None else ["--lora", str(rank)]
        command = [
            *("train", "diffusion", "--recipe", RECIPE, "--data", str(own), "--out", str(folder)),
            *("--init", str(model), "--log-steps", "20", *extra),
            *("--set", f"diffusion.steps={options.steps}", "--set", "data.split=train"),
            *("--set", f"diffusion.learning_rate={rate}", "--set", "diffusion.seconds=5.12"),
            *("--set", f"diffusion.seed={options.seed}"),
        ]
        with open(f"{folder}.log", "w", encoding="utf-8") as log:
            subprocess.run([sys.executable, "-m", "soundcrafter", *command], check=True, stdout=log)
        minutes = (time.monotonic() - began) / 60
        if rank is None:
            report(name, folder, {}, own, others, minutes, size)
        else:
            count = describe(str(folder))["parameters"]["adapter"]
            report(name, model, {str(folder): 1.0}, own, others, minutes, count)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest with a column family")
    parser.add_argument("--family", default="drawer and cupboard")
    parser.add_argument("--split", default="test", help="of the manifest")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--lora-learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def write_tables(options: argparse.Namespace, own: Path, others: Path) -> None:
    """Ten recordings to learn from, and the others of their family and split."""
    with open(options.data / "sounds.csv", encoding="utf-8") as stream:
        rows = [
            row
            for row in csv.DictReader(stream)
            if row["family"] == options.family and row["split"] == options.split
        ]
    if len(rows) <= COUNT:
        raise SystemExit(f"{options.family}: {len(rows)} in {options.split}; more than {COUNT}")
    for file, chosen in ((own, rows[:COUNT]), (others, rows[COUNT:])):
        with open(file, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "caption"])
            for row in chosen:
                writer.writerow([(options.data / row["file"]).resolve(), row["caption"]])


def report(
    name: str,
    model: Path,
    adapters: dict[str, float],
    own: Path,
    others: Path,
    minutes: float,
    parameters: int,
) -> None:
    losses = [loss(model, adapters, table) for table in (own, others)]
    figures = "".join(f"{value:10.4f}" for value in losses)
    print(f"{name:16}{figures}{minutes:10.1f}{parameters:14,}", flush=True)


@torch.no_grad()
def loss(model: Path, adapters: dict[str, float], table: Path) -> float:
    """The mean over 128 draws, the same ones for every model."""
    crafter = SoundCrafter.from_pretrained(model, "cpu", adapters)
    fixed = ("diffusion.seed=1234", "diffusion.drop_condition=0", "diffusion.seconds=5.12")
    stage = DiffusionStage(read_recipe(RECIPE, fixed, open_folder(model)), table, model)
    schedule = Schedule(stage.model_config.diffusion)
    losses = []
    for first in range(0, 128, 8):
        batch = stage.prepare(stage.load_batch(range(first, first + 8)), torch.device("cpu"))
        losses.append(float(denoising(crafter.unet, schedule, batch)["denoising"]))
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
