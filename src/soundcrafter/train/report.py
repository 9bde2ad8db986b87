"""Tables and figures of a training: time, losses, scores and sounds."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import Wave, audio_info, read_audio
from soundcrafter.evaluate.generate import INDEX
from soundcrafter.files import make_folder, read_json
from soundcrafter.plots import plot_grid, plot_lines
from soundcrafter.train.checkpoint import IDENTITY
from soundcrafter.train.log import SCORES, logged_runs, phase_borders, plot_losses, read_log
from soundcrafter.train.score import FOLDER

GRID_STEPS, GRID_PROMPTS = 3, 4  # rows and columns of the grid of spectrograms


def training_report(model: Path) -> dict[str, Any]:
    """Steps, time and speed of each stage that was trained in a model folder, by phase.

    Serialisable as JSON. Times are those of the steps; scoring is listed separately. Raises
    ValueError if nothing was trained.
    """
    runs = _runs(model).items()
    # logs of older versions lack seconds
    timed = {s: run for s, run in runs if all("seconds" in e for e in read_log(run))}
    return {"stages": {stage: _stage_report(run) for stage, run in timed.items()}}


def plot_training(model: Path, out: Path) -> list[Path]:
    """Write losses.png, and if a U-Net was scored scores.png (the paper's Fig. 3) and samples.png
    (its Fig. 4: spectrograms of the same prompts and seeds during training).

    Returns the files. Raises ValueError if nothing was trained.
    """
    runs = _runs(model)
    make_folder(out)
    written = [out / "losses.png"]
    plot_losses({stage: read_log(run) for stage, run in runs.items()}, written[0])
    for run in runs.values():
        scores = read_log(run, SCORES)
        if scores:
            written.append(out / "scores.png")
            _plot_scores(scores, written[-1], phase_borders(read_log(run)))
            steps = [entry["step"] for entry in scores if _sounds_of(run, entry["step"]).is_dir()]
            if steps:
                waves, rate, columns = _sounds(run, steps)
                written.append(out / "samples.png")
                plot_grid(waves, rate, written[-1], columns=columns)
    return written


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as a table with a row per phase; hours left assume the last phase's speed."""
    lines = [
        "| stage | phase | steps | hours | steps/s | samples/s | memory, GB | left, hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage, facts in report["stages"].items():
        for phase in facts["phases"]:
            names = ("hours", "steps_per_second", "samples_per_second", "memory_gb")
            figures = [f"{value:.3g}" for value in (*map(phase.get, names), facts["hours_left"])]
            cells = [stage, str(phase["phase"]), f"{phase['steps']:,}", *figures]
            lines.append(f"| {' | '.join(cells)} |")
        if facts["scoring_hours"]:
            lines.append(f"| {stage}, scoring | | | {facts['scoring_hours']:.3g} | | | | |")
    return "\n".join(lines) + "\n"


def _runs(model: Path) -> dict[str, Path]:
    """The runs of a model folder that have log entries; raises ValueError if there are none."""
    runs = logged_runs(model)
    if not runs:
        raise ValueError(
            f"{model}: contains no training run; expected an output folder of `soundcrafter train`"
        )
    return runs


def _stage_report(run: Path) -> dict[str, Any]:
    entries = read_log(run)
    steps = int(read_json(run / IDENTITY)["stage"]["steps"])
    phases, before = [], {"step": 0, "seconds": 0.0}
    for number, group in groupby(entries, key=lambda entry: entry.get("phase", 1)):
        part = list(group)
        phases.append({"phase": number, **_speed(part, before)})
        before = part[-1]
    done, speed = entries[-1]["step"], phases[-1]["steps_per_second"]
    scoring = sum(entry["scoring_seconds"] for entry in read_log(run, SCORES))
    return {
        "steps": done,
        "of": steps,
        "hours": round(entries[-1]["seconds"] / 3600, 4),
        "hours_left": round((steps - done) / speed / 3600, 4),  # at the last phase's speed
        "scoring_hours": round(scoring / 3600, 4),
        "phases": phases,
    }


def _speed(entries: Sequence[Mapping[str, Any]], before: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, time and speed of successive log entries after the entry `before`."""
    ends = np.array([before["seconds"], *(entry["seconds"] for entry in entries)])
    samples = float(np.diff(ends) @ [entry["samples_per_second"] for entry in entries])
    seconds = max(float(ends[-1] - ends[0]), 1e-9)
    steps = entries[-1]["step"] - before["step"]
    return {
        "steps": steps,
        "hours": round(seconds / 3600, 4),
        "steps_per_second": round(steps / seconds, 4),
        "samples_per_second": round(samples / seconds, 3),
        "memory_gb": max(entry.get("memory_gb", 0.0) for entry in entries),
    }


def _plot_scores(scores: Sequence[Mapping[str, Any]], path: Path, borders: Sequence[float]) -> None:
    def curve(name: str) -> Any:
        found = [(entry["step"], entry[name]) for entry in scores if name in entry]
        return [step for step, _ in found], np.array([value for _, value in found])

    last = scores[-1]
    same = f"N {last.get('floor_n', 0)} each"
    panels = {
        "Fréchet distance to real sounds": {
            f"generated, N {last['n']} and {last['reference']}": curve("fd"),
            f"generated, {same}": curve("fd_at_floor_n"),
            f"real, {same}": curve("fd_floor"),
        },
        f"Inception score, N {last['n']}": {"generated": curve("is")},
    }
    plot_lines(panels, path, x="step", borders=dict.fromkeys(panels, borders))


def _sounds_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}" / "generated"


def _sounds(run: Path, steps: Sequence[int]) -> tuple[dict[str, Wave], int, int]:
    """Sounds of the first prompts at the first, middle and last of the steps, row by row; their
    sample rate; the number of columns."""
    places = sorted({round(place) for place in np.linspace(0, len(steps) - 1, GRID_STEPS)})
    waves: dict[str, Wave] = {}
    rate = columns = 0
    for step in (steps[place] for place in places):
        folder = _sounds_of(run, step)
        prompts = list(read_json(folder / INDEX)["prompts"].items())[:GRID_PROMPTS]
        columns = len(prompts)
        for number, (stem, entry) in enumerate(prompts, 1):
            prompt = entry if isinstance(entry, str) else entry[0]  # older runs hold no seed
            file = folder / f"{stem}.wav"
            rate = audio_info(file).sample_rate
            waves[f"{number}. {_short(prompt)}\nstep {step:,}"] = read_audio(file, rate)
    return waves, rate, columns


def _short(prompt: str, width: int = 44) -> str:
    return prompt if len(prompt) <= width else f"{prompt[: width - 3]}..."
