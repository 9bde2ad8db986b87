"""Which sampler, steps, guidance, negative prompt and number of candidates a model should have.

    python benchmarks/sampling_sweep.py MODEL --out DIR [--count 2] [--guidance 2 3 4 6] ...

One setting varies at a time, the others stay at the model's defaults. Sounds are made for the
`dev` wordings of the scored families (recipes/wordings.csv), never for the frozen prompts, and
judged by the frozen tagger; CLAP distance is the mean over families of 1 - cosine of pairs of their
sounds. Seconds are for 10 s of sound, alone, warm. Writes sweep.json and sweep.png; a setting that
is in sweep.json already is not made again. --fast is about the distilled U-Net. With --keep, sounds
are also written to KEEP/SETTINGS/FAMILY/N.wav, for another judge.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcrafter.data.wordings import read_wordings
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder, recognition
from soundcrafter.evaluate.variety import variety
from soundcrafter.files import make_folder, read_json, write_json
from soundcrafter.pipeline import SoundCrafter

AXES: dict[str, Any] = {
    "sampler": str,
    "steps": int,
    "guidance": float,
    "negative": str,
    "candidates": int,
    "draft_steps": int,
}
FIGURES = ("accuracy", "clap", "distance", "seconds_for_10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wordings", type=Path, default=Path("recipes/wordings.csv"))
    parser.add_argument("--count", type=int, default=2, help="wordings a family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="use the distilled U-Net")
    parser.add_argument("--keep", type=Path, help="folder for the sounds")
    parser.add_argument("--base", nargs="*", default=[], help="NAME=VALUE of the settings kept")
    for name, kind in AXES.items():
        parser.add_argument(f"--{name}", nargs="*", type=kind, default=[])
    arguments = parser.parse_args()
    if arguments.count < 2:
        parser.error("--count: at least 2, for a distance within each family")
    make_folder(arguments.out)
    file = arguments.out / "sweep.json"
    model, tagger = SoundCrafter.from_pretrained(arguments.model, "cpu"), TaggerEmbedder.bundled()
    wordings = read_wordings(arguments.wordings, "dev")
    jobs = [(w, f) for f in tagger.classes[:-1] for w in wordings[f][: arguments.count]]
    pairs = [text.partition("=") for text in arguments.base]
    if unknown := sorted({name for name, _, _ in pairs} - set(AXES)):
        parser.error(f"--base: {', '.join(unknown)}; allowed: {', '.join(AXES)}")
    defaults = model.sampling_for(fast=arguments.fast)
    base = replace(defaults, **{name: AXES[name](value) for name, _, value in pairs})
    rows: list[dict[str, Any]] = read_json(file) if file.is_file() else []
    unet = model.training_ids["unet_fast" if arguments.fast else "unet"]
    run = {"unet": unet, "n": len(jobs), "seed": arguments.seed}
    wanted = [base]
    for name in AXES:
        wanted += [replace(base, **{name: value}) for value in getattr(arguments, name)]
    for sampling in wanted:
        identity = {**run, **asdict(sampling)}
        if not any(identity.items() <= row.items() for row in rows):
            model.sampling = sampling
            keep = arguments.keep and arguments.keep / _label(sampling)
            rows.append({**identity, **measure(model, tagger, jobs, arguments.seed, keep)})
            write_json(file, rows)
            print(json.dumps({name: rows[-1][name] for name in (*AXES, *FIGURES)}), flush=True)
    plot([row for row in rows if run.items() <= row.items()], base, arguments.out / "sweep.png")


def _label(sampling: SamplingConfig) -> str:
    """A folder name."""
    head = "fast-" if sampling.fast else ""
    return f"{head}{sampling.sampler}-{sampling.steps}-{sampling.candidates}x{sampling.draft_steps}"


def measure(
    model: SoundCrafter,
    tagger: TaggerEmbedder,
    jobs: list[tuple[str, str]],
    seed: int,
    keep: Path | None,
) -> dict[str, Any]:
    """What the model's settings give for `jobs`, (wording, family) each."""
    heard, vectors, scores = [], [], []
    made = model.generate([wording for wording, _ in jobs], seed=seed, batch_size=8)
    for number, (sound, (_, family)) in enumerate(zip(made, jobs, strict=True)):
        if keep is not None:
            sound.save(make_folder(keep / family) / f"{number}.wav")
        heard.append(tagger(sound.wave, sound.sample_rate).probabilities)
        vectors.append(model.clap.embed_audio(sound.wave, sound.sample_rate)[0].numpy())
        scores.append(sound.score)
    families = [family for _, family in jobs]
    found = recognition(np.stack(heard), families, tagger.classes)
    distances = variety(np.stack(vectors), families)
    return {
        "accuracy": found["accuracy"],
        "interval": found["interval"],
        "clap": statistics.mean(scores),
        "distance": statistics.mean(distances.values()),
        "seconds_for_10": statistics.median(_time(model) for _ in range(3)),
    }


def plot(rows: list[dict[str, Any]], base: SamplingConfig, file: Path) -> None:
    """A panel a setting that varies: accuracy, and seconds for 10 s of sound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {name: _series(rows, base, name) for name in AXES}
    panels = {name: series for name, series in panels.items() if len(series) > 1}
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 3), squeeze=False)
    for axis, (name, series) in zip(axes[0], panels.items(), strict=True):
        places = range(len(series))
        low, high = zip(*(row["interval"] for row in series), strict=True)
        accuracy = [row["accuracy"] for row in series]
        axis.fill_between(places, low, high, alpha=0.2)
        axis.plot(places, accuracy, "o-", label="recognised (95% interval)")
        axis.plot(places, [row["clap"] for row in series], "s--", label="CLAP score")
        axis.plot(places, [row["seconds_for_10"] for row in series], "^:", label="s for 10 s")
        axis.set_xticks(places, [str(row[name]) or "none" for row in series])
        axis.set(xlabel=name, ylim=(0, None))
    axes[0, 0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _series(rows: list[dict[str, Any]], base: SamplingConfig, name: str) -> list[dict[str, Any]]:
    """The rows that differ from `base` in nothing but `name`, in its order."""
    same = {key: value for key, value in asdict(base).items() if key != name}
    return sorted((row for row in rows if same.items() <= row.items()), key=lambda row: row[name])


def _time(model: SoundCrafter) -> float:
    begin = time.perf_counter()
    model.generate("rain", seconds=10.0)
    return time.perf_counter() - begin


if __name__ == "__main__":
    with torch.inference_mode():
        main()
