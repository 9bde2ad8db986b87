"""The HTML report of one evaluation, or of several side by side, with players and spectrograms.

It is made from folders that `soundcrafter evaluate` wrote, and contains their sounds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from soundcrafter.audio import audio_info, read_audio
from soundcrafter.files import write_text
from soundcrafter.progress import Progress
from soundcrafter.reports.document import document, package_text, wave_uri
from soundcrafter.reports.player import player
from soundcrafter.reports.side_by_side import (
    SCORES,
    EvaluatedModel,
    Order,
    SoundKey,
    Value,
    orders_of,
    read_models,
    scores_of,
)
from soundcrafter.reports.table import COLUMNS, TableRow, table_notes, table_rows

_WIDTHS = {"expected": 4.8, "clap": 3.8, "heard": 7.4, "probability": 5.4}  # of a column, in rem
_HINT = (
    "Pictures are log-mel spectrograms of whole sounds, from 0 Hz to half the sample rate, with a "
    "range of 80 dB. Click one to play the sound from there."
)


def write_html(
    outs: Sequence[Path], path: Path, progress: Progress | None = None, *, timing: bool = True
) -> None:
    """Write the page of evaluation folders. Their sounds are matched by prompt and seed.

    The worst sounds come first, see `orders_of`. Without `timing` the page depends only on the
    reports and sounds, so that a resumed evaluation writes the same bytes. Raises ValueError as
    `read_models` and `read_audio`.
    """
    models = read_models(outs)
    keys = list(dict.fromkeys(key for model in models for key in model.sounds))
    scores = scores_of(models)
    orders = orders_of(models, keys, scores)
    ranks = orders[0].values
    places = sorted(range(len(keys)), key=lambda i: (ranks[i] is None, ranks[i] or 0.0))
    lines = []
    for place in places:
        values = [order.values[place] for order in orders]
        lines.append(_row(models, keys[place], scores, values))
        if progress is not None:
            progress(len(lines), len(keys))
    title = f"Sounds of {', '.join(model.name for model in models)}"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _overall(models, table_rows(outs, timing=timing)),
            _controls(orders, len(keys)),
            f'<table id="sounds" class="{"several" if len(models) > 1 else "one"}" '
            f'style="{_columns(len(models), scores)}">',
            _head(models, scores, orders),
            "<tbody>",
            *lines,
            "</tbody></table>",
        ]
    )
    style = package_text("reports/player.css") + package_text("reports/report.css")
    script = package_text("reports/player.js") + package_text("reports/report.js")
    write_text(path, document(title, body, script=script, style=style))


def _columns(models: int, scores: Sequence[str]) -> str:
    """Variables for the style sheet. The width of the pictures does not depend on the scores."""
    widths = [_WIDTHS[score] for score in scores[:-1]]
    whole = sum(_WIDTHS.values())
    tracks = " ".join(f"{width:.1f}rem" for width in [*widths, whole - sum(widths)])
    return (
        f"--models: {models}; --scores: {len(scores)}; --tracks: {tracks}; --width: {whole:.1f}rem"
    )


def _overall(models: Sequence[EvaluatedModel], rows: Sequence[TableRow]) -> str:
    """The figures of the models as a table, and collapsed published figures and notes."""
    measured = [row for row in rows if row.source == "measured"]
    published = [row for row in rows if row.source != "measured"]
    families = [_recognised(model.report) for model in models]
    head = ("model", "recognised as their family", *COLUMNS, "measured with")
    lines = [
        [row.method, family, *row.cells, row.detail]
        for row, family in zip(measured, families, strict=True)
    ]
    others = [[row.method, *row.cells, row.origin] for row in published]
    notes = [*table_notes(rows), *(_method(model) for model in models)]
    return "\n".join(
        [
            f'<div class="panel">{_table(head, lines)}</div>',
            "<details><summary>Published figures, and how these were measured</summary>",
            f'<div class="panel">{_table(("method", *COLUMNS, "source"), others)}</div>',
            *(f'<p class="quiet">{escape(note)}</p>' for note in notes),
            "</details>",
        ]
    )


def _recognised(report: Mapping[str, Any]) -> str:
    found = report.get("recognised")
    if not found:
        return "-"
    low, high = found["interval"]
    return f"{found['accuracy']:.3f} ({low:.3f} to {high:.3f})"


def _method(model: EvaluatedModel) -> str:
    """How the model's figures were measured, in a sentence."""
    report = model.report
    embedders = ", ".join(
        f"{entry['embedder']} {entry['sha256'][:12]} at {entry['sample_rate']} Hz"
        for entry in report["embedders"]
    )
    return (
        f"{model.name}: {report['generated']} sounds and {report['reference']} recordings, "
        f"seed {report['seed']}, resampler {report['resampler']}, soundcrafter "
        f"{report['version']}; embedders {embedders}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain cells as a table: the first and last columns are text, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["", *(' class="number"' for _ in cells[2:]), ""]
        pairs = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(cell)}</{tag}>' for kind, cell in pairs)}</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _controls(orders: Sequence[Order], count: int) -> str:
    options = "".join(
        f'<option value="{place}"{" data-down" if order.down else ""}>{escape(order.label)}'
        "</option>"
        for place, order in enumerate(orders)
    )
    return (
        '<form id="controls"><label>Sort by '
        f'<select id="order">{options}</select></label>'
        '<button type="button" id="turn" aria-label="Reverse the order">&#9650;</button>'
        '<input type="search" id="filter" placeholder="Filter: prompt, family, predicted" '
        f'aria-label="Filter"><output id="count">{count} of {count}</output></form>\n'
        f'<p class="quiet">{escape(_HINT)}</p>'
    )


def _head(models: Sequence[EvaluatedModel], scores: Sequence[str], orders: Sequence[Order]) -> str:
    """Two rows of headings: the models, and below them their columns, which sort."""
    places = {order.column: place for place, order in enumerate(orders)}

    def sorting(column: tuple[int, str], heading: str, what: str) -> str:
        place = places[column]
        state = "none" if place else "ascending"
        return (
            f'<th scope="col" class="{column[1]}" aria-sort="{state}"><button type="button" '
            f'data-order="{place}" title="{escape(what)}">{escape(heading)}</button></th>'
        )

    groups = [
        f'<th scope="colgroup" class="group" colspan="{len(scores) + 1}">{escape(model.name)}</th>'
        for model in models
    ]
    columns = [sorting((-1, "prompt"), "prompt", "text that the sound was generated for")]
    for place in range(len(models)):
        columns.append('<th scope="col" class="listen">sound</th>')
        columns += [sorting((place, score), *SCORES[score]) for score in scores]
    return (
        f'<thead><tr class="models"><td class="prompt"></td>{"".join(groups)}</tr>\n'
        f"<tr>{''.join(columns)}</tr></thead>"
    )


def _row(
    models: Sequence[EvaluatedModel], key: SoundKey, scores: Sequence[str], values: Sequence[Value]
) -> str:
    """The row of one prompt and seed, with the sound of each model that has one."""
    sounds = [model.sounds.get(key) for model in models]
    first = next(sound for sound in sounds if sound is not None)
    facts = [first.get("family"), f"seed {first['seed']}"]
    if first.get("reference"):
        facts.append(f"recording {first['reference']}")
    predicted = [sound["heard"] for sound in sounds if sound is not None and sound.get("heard")]
    words = " ".join([first["prompt"], first.get("family") or "", *predicted]).lower()
    cells = [_cells(model, sound, scores) for model, sound in zip(models, sounds, strict=True)]
    return (
        f'<tr data-values="{escape(json.dumps(list(values)))}" data-words="{escape(words)}">'
        f'<th scope="row" class="prompt">{escape(first["prompt"])}'
        f'<span class="quiet">{escape(" · ".join(filter(None, facts)))}</span></th>'
        f"{''.join(cells)}</tr>"
    )


def _cells(model: EvaluatedModel, sound: Mapping[str, Any] | None, scores: Sequence[str]) -> str:
    """A cell with the player and one per score; they are empty if the sound is missing."""
    show: dict[str, Callable[[Any], str]] = {
        "expected": _share,
        "clap": lambda value: f"{value:.3f}",
        "heard": lambda value: _prediction(value, (sound or {}).get("family") or ""),
        "probability": _share,
    }
    player = '<p class="quiet">no sound</p>' if sound is None else _player(model, sound)
    cells = [f'<td class="listen" data-model="{escape(model.name)}">{player}</td>']
    for score in scores:
        value = None if sound is None else sound.get(score)
        shown = "-" if value is None else show[score](value)
        cells.append(f'<td class="{score}" data-label="{SCORES[score][0]}">{shown}</td>')
    return "".join(cells)


def _player(model: EvaluatedModel, sound: Mapping[str, Any]) -> str:
    """Picture and player of a sound, which the page contains."""
    file = model.out / sound["file"]
    rate = audio_info(file).sample_rate
    wave = read_audio(file, rate)
    return player(f"{sound['prompt']}, {model.name}", wave, rate, wave_uri(wave, rate))


def _share(value: float) -> str:
    return f'<span class="share" style="--share:{value:.3f}">{value:.3f}</span>'


def _prediction(predicted: str, family: str) -> str:
    """The predicted class, with a tick or a cross if the prompt has a family."""
    if not family:
        return escape(predicted)
    kind, sign = ("good", "&#10003;") if predicted == family else ("bad", "&#10007;")
    return f'<span class="{kind}">{sign}</span> {escape(predicted)}'
