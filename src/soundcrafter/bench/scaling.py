"""How a subject's time and memory grow with the sound's length, the batch and the steps."""

import dataclasses
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from soundcrafter.bench.meter import Request, Say, Subject, timed
from soundcrafter.plots import plot_lines

SCALING: Mapping[str, Sequence[float]] = {
    "seconds": (2.5, 5, 10, 20, 40, 60),
    "batch": (1, 2, 4, 8, 16),
    "steps": (1, 5, 10, 25, 50, 100),
}
_AXES = {"seconds": "seconds of sound", "batch": "prompts at once", "steps": "sampling steps"}


def check_scaling(scaling: Mapping[str, Sequence[float]], out: object) -> None:
    """ValueError for an axis that is not there, and where there is no folder for the curves."""
    for axis in scaling:
        if axis not in _AXES:
            raise ValueError(f"scaling: got {axis!r}; allowed: {', '.join(_AXES)}")
    if out is None:
        raise ValueError("scaling: it writes a table and a picture; give --out DIR for them")


def measure_scaling(
    subject: Subject,
    request: Request,
    scaling: Mapping[str, Sequence[float]],
    memory_of: Callable[[Request], float],
    say: Say,
) -> list[dict[str, Any]]:
    """One row a value: its axis, the value, the median seconds, the peak MB where the axis is
    seconds (else None). `memory_of` measures the MB of a request."""
    rows = []
    for axis, values in scaling.items():
        for value in values:
            say(f"{_AXES[axis]}: {value:g}")
            sizes: dict[str, Any] = {"seconds": request.seconds, "steps": request.steps}
            sizes |= {axis: value}
            subject.make(_ignore, **(sizes | {"steps": 1}))  # to warm up
            work = partial(subject.make, _ignore, **sizes)
            seconds = [timed(work, subject.device) for _ in range(request.repeats)]
            memory = None
            if axis == "seconds":
                longer = dataclasses.replace(request, seconds=value)
                memory = memory_of(longer)
            row = {"axis": axis, "value": value, "seconds": statistics.median(seconds)}
            rows.append({**row, "peak_memory_mb": memory})
    return rows


def plot_scaling(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw what `measure_scaling` returned as a PNG: a panel for each axis, the seconds of work
    upwards, and beside those over the sound's length the peak memory in GB."""
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
    """For a step that nobody watches."""
