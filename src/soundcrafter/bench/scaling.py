"""How time and memory grow with the length of the sound, the batch and the steps."""

import dataclasses
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from soundcrafter.bench.meters import timed
from soundcrafter.bench.workload import OnStatus, Subject, Workload
from soundcrafter.plots import plot_lines

SCALING: Mapping[str, Sequence[float]] = {
    "seconds": (2.5, 5, 10, 20, 40, 60),
    "batch": (1, 2, 4, 8, 16),
    "steps": (1, 5, 10, 25, 50, 100),
}
_AXES = {"seconds": "seconds of sound", "batch": "prompts at once", "steps": "sampling steps"}


def check_scaling(scaling: Mapping[str, Sequence[float]], out: object) -> None:
    """Raise ValueError for an unknown axis, and if there is no folder for the curves."""
    for axis in scaling:
        if axis not in _AXES:
            raise ValueError(f"scaling: got {axis!r}; allowed: {', '.join(_AXES)}")
    if out is None:
        raise ValueError("scaling: needs --out DIR for its table and picture")


def measure_scaling(
    subject: Subject,
    workload: Workload,
    scaling: Mapping[str, Sequence[float]],
    memory_of: Callable[[Workload], float],
    on_status: OnStatus,
) -> list[dict[str, Any]]:
    """Return one row per value: axis, value, median seconds, and the peak memory in MB if the axis
    is seconds (else None). `memory_of` measures the MB of a workload."""
    rows = []
    for axis, values in scaling.items():
        for value in values:
            on_status(f"{_AXES[axis]}: {value:g}")
            sizes: dict[str, Any] = {"seconds": workload.seconds, "steps": workload.steps}
            sizes |= {axis: value}
            subject.make(_ignore, **(sizes | {"steps": 1}))  # warm-up
            work = partial(subject.make, _ignore, **sizes)
            seconds = [timed(work, subject.device) for _ in range(workload.repeats)]
            memory = None
            if axis == "seconds":
                longer = dataclasses.replace(workload, seconds=value)
                memory = memory_of(longer)
            row = {"axis": axis, "value": value, "seconds": statistics.median(seconds)}
            rows.append({**row, "peak_memory_mb": memory})
    return rows


def plot_scaling(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the rows of `measure_scaling` as a PNG, one panel per axis: the time, and for the length
    of the sound also the memory."""
    panels: dict[str, dict[str, tuple[list[float], Any]]] = {}
    for row in rows:
        curves = panels.setdefault(_AXES[row["axis"]], {})
        for name, value in (
            ("time, s", row["seconds"]),
            ("peak memory, GB", row["peak_memory_mb"] and row["peak_memory_mb"] / 1e3),
        ):
            if value is not None:
                positions, values = curves.setdefault(name, ([], []))
                positions.append(row["value"])
                values.append(value)
    drawn = {
        title: {name: (xs, np.asarray(ys)) for name, (xs, ys) in curves.items()}
        for title, curves in panels.items()
    }
    plot_lines(drawn, path, x="", y="")


def _ignore() -> None:
    """Do nothing after a step."""
