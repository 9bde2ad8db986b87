"""The timeline of a scene: as a table to edit, and drawn, with events that can be dragged."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from soundcrafter.scene.scene import Event, Scene, Track

COLUMNS = ("track", "prompt", "start", "seconds", "gain", "pan", "repeats")
HEADERS = ("Track", "Sound", "Start (s)", "Length (s)", "Gain (LU)", "Pan", "Repeats")
_ROW, _LABEL, _WIDTH = 34, 130, 1000  # of the drawing, in its own units
_SHOWN = 3.0  # seconds drawn of an event without a length

Row = Sequence[Any]


def rows_of(scene: Scene) -> list[list[Any]]:
    """The events of a scene as rows of COLUMNS; an empty cell is a default."""
    return [
        [
            track.name,
            event.prompt,
            round(max(event.start, event.earliest), 2),
            "" if event.seconds is None else round(event.seconds, 2),
            event.gain,
            event.pan,
            event.repeats,
        ]
        for track in scene.tracks
        for event in track.events
        if event.prompt
    ]


def scene_from(rows: Sequence[Row], seconds: float | None, seed: int, balance: float) -> Scene:
    """The scene that a table describes. Raises ValueError, naming the row."""
    tracks: dict[str, list[Event]] = {}
    for number, row in enumerate(rows, 1):
        cells = _cells(row)
        if not str(cells.get("prompt") or "").strip():
            continue
        name = str(cells.get("track") or "").strip() or f"track {number}"
        try:
            tracks.setdefault(name, []).append(_event(cells))
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
    if not tracks:
        raise ValueError("scene: describe at least one sound")
    return Scene(
        tracks=tuple(Track(name=name, events=tuple(events)) for name, events in tracks.items()),
        seconds=seconds,
        seed=seed,
        balance=balance if len(tracks) > 1 else 0.0,
    )


def _cells(row: Row) -> dict[str, Any]:
    """The cells of a row by column; those that are missing are empty."""
    return {name: row[place] if place < len(row) else "" for place, name in enumerate(COLUMNS)}


def _event(cells: Mapping[str, Any]) -> Event:
    return Event(
        prompt=str(cells["prompt"]).strip(),
        start=_number(cells, "start") or 0.0,
        seconds=_number(cells, "seconds"),
        gain=_number(cells, "gain") or 0.0,
        pan=_number(cells, "pan") or 0.0,
        repeats=round(_number(cells, "repeats") or 1),
    )


def _number(cells: Mapping[str, Any], name: str) -> float | None:
    cell = cells.get(name)
    if cell is None or str(cell).strip() in ("", "nan"):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: got {cell!r}; expected a number")
    return value


def drawing(rows: Sequence[Row], seconds: float) -> str:
    """An SVG of the events, each a bar that can be dragged, or moved with the arrow keys."""
    shown = [
        (number, row) for number, row in enumerate(rows) if str(row[1] if len(row) > 1 else "")
    ]
    names = list(dict.fromkeys(str(row[0]) for _, row in shown))
    height = _ROW * max(1, len(names)) + 26
    scale = (_WIDTH - _LABEL) / max(seconds, 0.1)
    parts = [
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {height}" role="group" '
        f'aria-label="Timeline" data-scale="{scale:.4f}" data-left="{_LABEL}" '
        f'data-seconds="{seconds:g}">'
    ]
    for line, name in enumerate(names):
        y = line * _ROW
        parts.append(f'<text x="6" y="{y + 22}">{escape(name[:16])}</text>')
        parts.append(f'<line x1="{_LABEL}" x2="{_WIDTH}" y1="{y + _ROW}" y2="{y + _ROW}"/>')
    step = next(s for s in (0.5, 1, 2, 5, 10, 30, 60, 120) if seconds / s <= 12 or s == 120)
    for tick in range(math.floor(seconds / step) + 1):
        x = _LABEL + tick * step * scale
        anchor = "end" if x > _WIDTH - 30 else "start"  # the last one would be cut off
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">'
            f"{tick * step:g} s</text>"
        )
    for number, row in shown:
        parts.append(_bar(number, row, names.index(str(row[0])), scale, seconds))
    return "".join(parts) + "</svg>"


def _bar(number: int, row: Row, line: int, scale: float, seconds: float) -> str:
    cells = _cells(row)
    try:
        start, length = _number(cells, "start") or 0.0, _number(cells, "seconds")
    except ValueError:
        return ""
    shown = min(length or _SHOWN, max(seconds - start, 0.1))
    label = f"{cells['prompt']} at {start:g} s; left and right arrows move it"
    x, width = _LABEL + start * scale, max(shown * scale, 6)
    return (
        f'<g class="event" tabindex="0" role="slider" aria-label="{escape(label, quote=True)}" '
        f'aria-valuemin="0" aria-valuemax="{seconds:g}" aria-valuenow="{start:g}" '
        f'data-row="{number}" data-start="{start:g}">'
        f'<rect x="{x:.1f}" y="{line * _ROW + 5}" width="{width:.1f}" height="{_ROW - 10}" rx="5" '
        f'class="{"open" if length is None else ""}"/>'
        f'<text x="{x + 6:.1f}" y="{line * _ROW + 22}">{escape(str(cells["prompt"])[:40])}</text>'
        "</g>"
    )


def moved(rows: Sequence[Row], row: int, start: float) -> list[list[Any]]:
    """Rows in which one event starts at another time."""
    found = [list(each) for each in rows]
    if 0 <= row < len(found):
        found[row][COLUMNS.index("start")] = round(max(start, 0.0), 2)
    return found
