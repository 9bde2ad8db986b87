"""How long the way from latent to sound takes, against Griffin-Lim (64 iterations) in the same run.

    python benchmarks/decoder_speed.py [MODEL] [--seconds 10.24] [--threads 2] [--runs 7] [--plain]

Networks are optimized for a CPU unless --plain is given. Latents and mels are random: speed does
not depend on the sound. The jobs take turns, so that a busy machine is fair to all; medians are
printed, and their ratios.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from soundcrafter.cpu.memory import tune_malloc
from soundcrafter.cpu.optimize import optimize
from soundcrafter.hub import find_model
from soundcrafter.models.griffin_lim import griffin_lim
from soundcrafter.store import open_folder


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=10.24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--plain", action="store_true", help="without optimize()")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = open_folder(find_model(arguments.model))
    vae, vocoder = folder.load("vae"), folder.load("vocoder")
    tune_malloc()
    if not arguments.plain:
        for network in (vae, vocoder):
            optimize(network)
    mel_config, (time_stride, rows_stride) = vae.config.mel, vae.config.stride
    unit = mel_config.hop * time_stride
    frames = max(1, round(arguments.seconds * mel_config.sample_rate / unit))
    shape = (1, vae.config.latent_channels, frames, mel_config.num_mels // rows_stride)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(shape, generator=generator)
    mel = vae.decode(latent)
    jobs = {
        "vae decoder": lambda: vae.decode(latent),
        "vocoder": lambda: vocoder(mel),
        "griffin-lim 64": lambda: griffin_lim(mel, mel_config),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for run in range(arguments.runs + 1):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            if run:  # the first one warms up
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ours = medians["vae decoder"] + medians["vocoder"]
    print(f"{frames * unit / mel_config.sample_rate:.2f} s, {arguments.threads} threads")
    for name, median in medians.items():
        print(f"{name:15} {median:.3f} s (least {min(seconds[name]):.3f})")
    print(f"decoder + vocoder {ours:.3f} s, {ours / medians['griffin-lim 64']:.2f} of griffin-lim")


if __name__ == "__main__":
    main()
