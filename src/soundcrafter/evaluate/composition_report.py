"""The figures and tables of the composition suite, from its logged results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.evaluate.presence import level_balance
from soundcrafter.evaluate.prompt_sets import REVERSED
from soundcrafter.markdown import format_interval, format_number, markdown_table

BASELINES = {
    "apart": "two real recordings, each measured alone (ceiling)",
    "real": "two real recordings, by hand",
    "singles": "two single generations, by hand",
    "composed": "the prompt, composed of its events",
    "timeline": "its events on a timeline, in one pass",
    "prompt": "the plain prompt",
    "alone": "one real recording, measured for both (floor)",
    "reversed": "the reversed prompt, measured as the plain one (floor)",
}
_ROWS_OF = {"alone": ("first alone", "second alone"), "reversed": ("prompt",)}
MADE = (
    "real",
    "singles",
    "composed",
    "timeline",
    "prompt",
)  # sounds that should contain both sources


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise logged results: the figures of each baseline for each kind of scene, the number of
    recordings that set the thresholds, and the sounds that should contain both sources, worst
    first."""
    measured = [row for row in rows if "baseline" in row]
    kinds = {
        kind: {
            baseline: _figures(found)
            for baseline in BASELINES
            if (found := list(_of(measured, kind, baseline)))
        }
        for kind in ("overlap", "order")
    }
    made = [row for row in measured if row["baseline"] in MADE]
    sounds = sorted(made, key=lambda row: (min(row["margins"]), row["key"]))
    recordings = next((row["n"] for row in rows if row["key"] == "thresholds"), 0)
    return {**kinds, "threshold_recordings": recordings, "sounds": sounds}


def _of(rows: Sequence[Mapping[str, Any]], kind: str, baseline: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a baseline; the floors reuse those of other baselines."""
    names = _ROWS_OF.get(baseline, (baseline,))
    for row in rows:
        if row["kind"] != kind or row["baseline"] not in names:
            continue
        if baseline != "reversed":
            yield row
        elif row["name"].endswith(REVERSED):
            yield {**row, "margins": row["margins"][::-1], "onsets": row["onsets"][::-1]}


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one baseline and kind of scene."""
    both = [row for row in rows if min(row["margins"]) > 0]
    figures: dict[str, Any] = {"both": _share(len(both), len(rows))}
    for place, name in enumerate(("first", "second")):
        figures[name] = sum(row["margins"][place] > 0 for row in rows) / len(rows)
    if rows[0]["kind"] == "overlap":
        if rows[0]["baseline"] != "apart":  # whose sources are not in one sound
            balances = [-abs(level_balance(row["margins"])) for row in rows]
            figures["balance"] = float(np.median(balances))
        return figures
    if "onsets" in rows[0]:
        right = sum(row["onsets"][0] < row["onsets"][1] for row in both)
        figures["order"] = _share(right, len(both)) if both else None
        figures["both_in_order"] = _share(right, len(rows))
        figures["onsets"] = (
            [float(np.median([row["onsets"][place] for row in both])) for place in (0, 1)]
            if both
            else None
        )
    errors = [
        abs(found - true)
        for row in both
        if "starts" in row
        for found, true in zip(row["onsets"], row["starts"], strict=True)
    ]
    figures["onset_error"] = float(np.median(errors)) if errors else None
    return figures


def _share(hits: int, total: int) -> dict[str, Any]:
    interval = list(wilson_interval(hits, total))
    return {"share": hits / total, "interval": interval, "n": total}


def composition_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as two tables, one for each kind of scene."""
    overlap = [
        [BASELINES[name], *_cells(found["both"]), format_number(found.get("balance"), ".1f")]
        for name, found in report["overlap"].items()
    ]
    order = [
        [
            BASELINES[name],
            *_cells(found["both"]),
            *_cells(found.get("order")),
            _cells(found.get("both_in_order"))[0],
            " and ".join(f"{onset:.2f}" for onset in found.get("onsets") or ()) or "-",
            format_number(found["onset_error"]),
        ]
        for name, found in report["order"].items()
    ]
    present = ("both present", "95% interval", "N")
    lines = [
        f"Tagger {report['tagger'][:12]}, split {report['split']}, seed {report['seed']}, "
        f"{report['seeds']} per scene; thresholds from {report['threshold_recordings']} recordings "
        "of dev. Balance and onsets are the tagger's estimates, see evaluate/presence.py.",
        "",
        "Two at once:",
        "",
        *markdown_table(["made of", *present, "weaker to stronger, median dB"], overlap),
        "",
        "One after the other, each pair in both orders:",
        "",
        *markdown_table(
            [
                *("made of", *present, "of these in order", "95% interval", "N"),
                *("both and in order", "onsets, median s", "onset error, median s"),
            ],
            order,
        ),
    ]
    return "\n".join(lines) + "\n"


def _cells(share: Mapping[str, Any] | None) -> list[str]:
    """A share, its interval and N."""
    if share is None:
        return ["-"] * 3
    return [format_number(share["share"]), format_interval(share["interval"]), str(share["n"])]
