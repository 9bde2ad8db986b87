"""Scores during training: FD and IS of sounds from the averaged weights (the paper's Fig. 3)."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.evaluate.embedders import open_embedder
from soundcrafter.evaluate.prompt_sets import caption_prompts
from soundcrafter.evaluate.run import evaluate_prompts
from soundcrafter.evaluate.sound_files import find_recordings
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder

FOLDER = "scores"  # in a stage's run folder; a subfolder of sounds and their report per score


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """When, on which prompts and by which embedder a model is scored during training."""

    steps: int  # training steps between scores
    data: Path  # manifest of captions to generate for and real sounds to compare with
    split: str = "dev"  # of the manifest
    prompts: int = 64  # number of captions, spread evenly over the split
    embedder: str = "tagger"  # see evaluate/embedders.py
    checkpoint: Path | None = None  # of the embedder, where it is not bundled
    seed: int = 0  # of every sound

    def __post_init__(self) -> None:
        if self.steps < 1 or self.prompts < 2 or self.seed < 0:
            raise ValueError(
                f"score steps, prompts, seed: got {self.steps}, {self.prompts}, {self.seed}; "
                "at least 1, 2, 0"
            )


class Scorer:
    """Generates for fixed prompts and seeds with the model folder on disk, and compares.

    Raises ValueError if the folder lacks a part that generation needs or the data has no captions,
    before any training.
    """

    def __init__(self, options: ScoreOptions, folder: Path, place: Path, device: str) -> None:
        parts = open_folder(folder).parts if (folder / "config.json").is_file() else {}
        missing = [n for n in GENERATOR_PARTS if n not in parts and n != "unet"]
        if missing:
            raise ValueError(f"{folder}: scores need {', '.join(missing)}; train them first")
        self.options, self.folder, self.place, self.device = options, folder, place, device
        found = caption_prompts(options.data, options.split)
        chosen = np.linspace(0, len(found) - 1, min(options.prompts, len(found))).round()
        self.prompts = tuple(found[int(place)] for place in chosen)
        self.reference = find_recordings(options.data, options.split)
        if len(self.reference.files) < 2:
            raise ValueError(f"{options.data}: {options.split} contains one sound; scores need two")
        self.embedder = open_embedder(options.embedder, checkpoint=options.checkpoint)

    def due(self, done: int, steps: int) -> bool:
        """Whether a score is due after `done` of `steps` steps."""
        return done == steps or done % self.options.steps == 0

    def __call__(self, done: int) -> dict[str, float]:
        """The figures after `done` steps; sounds and report stay in scores/step-N."""
        began = time.perf_counter()
        out = self.place / FOLDER / f"step-{done:08d}"
        # what a killed run left comes from slightly different weights
        shutil.rmtree(out, ignore_errors=True)
        report = evaluate_prompts(
            SoundCrafter.from_pretrained(self.folder, self.device, precision="fp32"),
            self.prompts,
            self.reference,
            [self.embedder],
            out,
            seed=self.options.seed,
            splits=1,  # the inception score is at most N / splits, and N is small
        )
        return {**_figures(report), "scoring_seconds": round(time.perf_counter() - began, 2)}


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    (found,) = report["embedders"]
    figures = {"n": report["generated"], "reference": report["reference"], "fd": found["fd"]}
    if found.get("floor"):
        floor = found["floor"]
        figures |= {"floor_n": floor["n"], "fd_floor": floor["fd"]}
        figures["fd_at_floor_n"] = floor["fd_generated"]
    if "is" in found:
        figures["is"] = found["is"]["mean"]
    if "kl" in found:
        figures["kl"] = found["kl"]["mean"]
    return figures
