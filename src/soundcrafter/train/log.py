"""The training log: a line of JSON per entry, the same in TensorBoard, a callback, and its plot."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.files import append_json_line, read_json_lines, write_text
from soundcrafter.plots import plot_lines
from soundcrafter.train.stage import Samples

# values of an entry that vary between equal runs
MACHINE_FACTS = ("samples_per_second", "seconds", "memory_gb")
SCORES = "scores.jsonl"
# values of an entry that are not losses; "loss" is their weighted sum
NOT_LOSSES = (
    *("step", "loss", "learning_rate", *MACHINE_FACTS, "phase", "progress"),
    *("gradient_norm", "discriminator_gradient_norm"),
)

# gets every entry of the log; for a score {"step", "scoring": prompts}, then {"step", "scores"}
Report = Callable[[Mapping[str, Any]], None]


class Log:
    """Averages losses between entries and writes them to `log.jsonl` and `tensorboard/`."""

    def __init__(self, run: Path, start: int, report: Report | None) -> None:
        self.file, self.scores = run / "log.jsonl", run / SCORES
        self.report = report
        self._sums: dict[str, list[float]] = {}
        self._since = time.perf_counter()
        # drop what a killed run logged after its last checkpoint
        self._seconds = _drop_after(self.file, start)
        _drop_after(self.scores, start)
        self._board = _tensorboard(run / "tensorboard", start + 1)

    def add(self, losses: Mapping[str, float]) -> None:
        """Add the losses of one step."""
        for name, value in losses.items():
            self._sums.setdefault(name, []).append(value)

    def write(self, step: int, num_samples: int, extra: Mapping[str, float]) -> None:
        """Write one entry: mean losses since the last one, `extra`, the speed in samples/s and the
        seconds of training so far, including those before a resume."""
        now = time.perf_counter()
        self._seconds += now - self._since
        entry: dict[str, Any] = {"step": step}
        entry |= {name: float(np.mean(values)) for name, values in self._sums.items()}
        speed = round(num_samples / (now - self._since), 3)
        entry |= {**extra, "samples_per_second": speed, "seconds": round(self._seconds, 2)}
        self._sums, self._since = {}, now
        self._append(self.file, entry)
        if self.report is not None:
            self.report(entry)

    def announce_score(self, step: int, prompts: int) -> None:
        """Report that the sounds of so many prompts are about to be generated and scored."""
        if self.report is not None:
            self.report({"step": step, "scoring": prompts})

    def score(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one line of `scores.jsonl`, and report it as "scores"; time for scoring does not
        count as training."""
        now = time.perf_counter()
        self._since += figures["scoring_seconds"]
        seconds = round(self._seconds + now - self._since, 2)
        self._append(self.scores, {"step": step, **figures, "seconds": seconds})
        if self.report is not None:
            self.report({"step": step, "scores": dict(figures)})

    def _append(self, file: Path, entry: Mapping[str, Any]) -> None:
        append_json_line(file, entry)
        if self._board is not None:
            group = "" if file == self.file else "score/"
            for name, value in entry.items():
                if name != "step":
                    self._board.add_scalar(group + name, value, entry["step"])

    def show(self, step: int, samples: Samples) -> None:
        """Write sounds and spectrograms to TensorBoard."""
        if self._board is None:
            return
        for name, wave in samples.waves.items():
            self._board.add_audio(name, wave[None].clip(-1, 1), step, samples.sample_rate)
        for name, mel in samples.mels.items():
            picture = mel.T[::-1]  # low bands at the bottom
            low, high = float(picture.min()), float(picture.max())
            picture = (picture - low) / max(high - low, 1e-6)
            self._board.add_image(name, picture[None], step)

    def close(self) -> None:
        """Flush and close the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def read_log(run: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    """The entries of a run's `log.jsonl` or `scores.jsonl`; empty without the file."""
    return read_json_lines(run / name)


def plot_losses(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw the losses of stages as a PNG, one panel per stage; `logs` maps a stage to its entries.

    The axis is linear from -0.01 to 0.01 and logarithmic beyond, so that losses of different size
    and sign share a panel. The borders between a curriculum's phases are marked.
    """
    borders = {stage: phase_borders(entries) for stage, entries in logs.items()}
    panels: dict[str, dict[str, tuple[list[float], np.ndarray]]] = {}
    for stage, entries in logs.items():
        names = dict.fromkeys(name for entry in entries for name in entry)
        panels[stage] = {
            name: (
                [entry["step"] for entry in entries if name in entry],
                np.array([entry[name] for entry in entries if name in entry]),
            )
            for name in names
            if name not in NOT_LOSSES
        }
    plot_lines(panels, path, x="step", y="loss", symlog=0.01, borders=borders)


def phase_borders(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    """The steps of a log after which another phase begins."""
    return [
        one["step"]
        for one, other in pairwise(entries)
        if one.get("phase", 1) != other.get("phase", 1)
    ]


def logged_runs(model: Path) -> dict[str, Path]:
    """The runs in a model folder that have log entries, in the order of their last ones."""
    files = sorted((model / "training").glob("*/log.jsonl"), key=lambda f: f.stat().st_mtime)
    return {file.parent.name: file.parent for file in files if read_log(file.parent)}


def _drop_after(file: Path, step: int) -> float:
    """Keep the entries up to a step; returns the seconds of training until then."""
    kept = [entry for entry in read_log(file.parent, file.name) if entry["step"] <= step]
    if file.exists():
        write_text(file, "".join(json.dumps(entry) + "\n" for entry in kept))
    return float(kept[-1].get("seconds", 0.0)) if kept else 0.0


def _tensorboard(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # optional: log.jsonl holds the same numbers
        return None
    return SummaryWriter(str(folder), purge_step=first)
