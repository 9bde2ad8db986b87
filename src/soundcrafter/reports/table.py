"""The paper's Tab. 3 with our own rows: measured ones, the paper's, and published ones."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from soundcrafter.data.tables import read_table
from soundcrafter.files import read_json

COLUMNS = ("FD", "IS", "KL", "FAD", "CLAP", "parameters (M)", "seconds per clip")
SOURCES = {
    "printed": "printed in the paper",
    "published": "published",
    "measured": "measured",
}
# The embedder of FD, IS and KL is the first of these in a report: the field's, then ours.
_CLASSIFIERS = ("panns-16k", "panns-32k", "tagger")
_PUBLISHED = Path(str(resources.files("soundcrafter"))) / "reports" / "published.csv"
_CITED = (
    "Printed: Tab. 3 of the paper; its seconds are for 10 s on an RTX 3090. Published: TANGO's "
    "README, on the test clips of AudioCaps. Their embedder, recordings and N differ from those of "
    "measured rows: do not rank them together."
)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One method and its figures; None where a figure is not known."""

    method: str
    fd: float | None  # Fréchet distance, in the embedder's features
    is_: float | None  # inception score, mean
    kl: float | None  # of sounds paired by name
    fad: float | None  # Fréchet distance in VGGish's features
    clap: float | None  # mean cosine of prompt and sound
    parameters_m: float | None  # millions
    seconds: float | None  # to generate one clip
    source: str  # a key of SOURCES
    detail: str = ""  # of a measured row: embedder and N
    note: str = ""  # of a measured row: how its figures were measured

    @property
    def cells(self) -> list[str]:
        """The figures as text, in the order of COLUMNS."""
        figures = (self.fd, self.is_, self.kl, self.fad, self.clap, self.parameters_m, self.seconds)
        return ["-" if figure is None else f"{figure:.4g}" for figure in figures]

    @property
    def origin(self) -> str:
        """The source of the figures, as text."""
        return ", ".join(part for part in (SOURCES[self.source], self.detail) if part)


def read_reports(outs: Sequence[Path]) -> list[dict[str, Any]]:
    """The report.json of folders that `soundcrafter evaluate` wrote, each with a unique name.

    A report without a name (of two folders) gets its folder's name; equal names get the folder in
    brackets. Raises ValueError for no folder, a missing file, and a file that is not such a report.
    """
    if not outs:
        raise ValueError("report: got no folder; give one or more that evaluate wrote")
    reports = [read_json(out / "report.json") for out in outs]
    for out, report in zip(outs, reports, strict=True):
        if not isinstance(report, dict) or not isinstance(report.get("embedders"), list):
            raise ValueError(
                f"{out / 'report.json'}: is not a comparison of sounds; allowed: the reports of "
                "soundcrafter evaluate captions, families, free, prompts and folders"
            )
    names = [report.get("name") or out.name for out, report in zip(outs, reports, strict=True)]
    counts = Counter(names)
    unique = [
        f"{name} [{out.as_posix()}]" if counts[name] > 1 else name
        for name, out in zip(names, outs, strict=True)
    ]
    return [{**report, "name": name} for report, name in zip(reports, unique, strict=True)]


def table_rows(outs: Sequence[Path]) -> list[TableRow]:
    """Rows printed in the paper, published rows, and one measured row per folder.

    Raises ValueError as `read_reports`.
    """
    measured = [
        _measured(out, report) for out, report in zip(outs, read_reports(outs), strict=True)
    ]
    return [*_cited(), *measured]


def table_markdown(rows: Sequence[TableRow]) -> str:
    """The table in Markdown: measured methods in bold, the source of the figures in the last
    column, and notes on how far they are comparable."""
    lines = [_line(["method", *COLUMNS, "source"]), "|---" + "|---:" * len(COLUMNS) + "|---|"]
    for row in rows:
        name = row.method.replace("|", "\\|")
        method = f"**{name}**" if row.source == "measured" else name
        lines.append(_line([method, *row.cells, row.origin]))
    return "\n".join([*lines, "", *table_notes(rows)]) + "\n"


def table_latex(rows: Sequence[TableRow]) -> str:
    """The table in LaTeX (package booktabs): a rule and a heading for each group."""
    width = len(COLUMNS) + 2
    head = " & ".join(_latex(cell) for cell in ("Method", *COLUMNS, "embedder, N"))
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{l{'r' * len(COLUMNS)}l}}",
        "\\toprule",
        f"{head} \\\\",
    ]
    for source, group in groupby(rows, key=lambda row: row.source):
        heading = SOURCES[source].capitalize()
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{heading}}}}} \\\\"]
        for row in group:
            cells = [row.method, *row.cells, row.detail]
            lines.append(f"{' & '.join(_latex(cell) for cell in cells)} \\\\")
    notes = _latex(" ".join(table_notes(rows)))
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{notes}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def table_notes(rows: Sequence[TableRow]) -> list[str]:
    """Notes on how the rows were measured, and how far they are comparable."""
    notes = [row.note for row in rows if row.note]
    if notes:
        notes.insert(
            0, "FAD is the FD with VGGish's features; parameters are of all generating parts."
        )
    return [*notes, _CITED] if any(row.source != "measured" for row in rows) else notes


def _measured(out: Path, report: Mapping[str, Any]) -> TableRow:
    found = {entry["embedder"]: entry for entry in report["embedders"]}
    classifier: Mapping[str, Any] = next(
        (found[name] for name in _CLASSIFIERS if name in found), {}
    )
    clap: Mapping[str, Any] = next(
        (entry for entry in report["embedders"] if entry.get("clap")), {}
    )
    timing = read_json(out / "timing.json") if (out / "timing.json").is_file() else {}
    count = report.get("parameters")
    return TableRow(
        method=report["name"],
        fd=classifier.get("fd"),
        is_=(classifier.get("is") or {}).get("mean"),
        kl=(classifier.get("kl") or {}).get("mean"),
        fad=found.get("vggish", {}).get("fd"),
        clap=(clap.get("clap") or {}).get("mean"),
        parameters_m=None if count is None else count / 1e6,
        seconds=timing.get("seconds_per_clip"),
        source="measured",
        detail=f"{classifier.get('embedder', 'no tagger')}, N {report['generated']}",
        note=_note(report, classifier, clap, timing),
    )


def _note(
    report: Mapping[str, Any],
    classifier: Mapping[str, Any],
    clap: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> str:
    """How the row's figures were measured: floor, splits, CLAP's weights, clips and machine."""
    parts = []
    if floor := classifier.get("floor"):
        parts.append(f"FD of two halves of the recordings {floor['fd']:.4g}, N {floor['n']} each")
    if score := classifier.get("is"):
        parts.append(f"IS over {score['splits']} splits")
    if clap:
        parts.append(f"CLAP with the weights {clap['sha256'][:12]}")
    if timing.get("seconds_per_clip") is not None:
        lengths = [sound["seconds"] for sound in report.get("sounds", ())]
        length = f" of {sum(lengths) / len(lengths):.3g} s" if lengths else ""
        named = (timing.get("device"), timing.get("cpu"))
        counted = (f"{key} {timing[key]}" for key in ("processes", "threads") if key in timing)
        parts.append(
            f"clips{length} generated on {', '.join([*map(str, filter(None, named)), *counted])}"
        )
    return f"{report['name']}: {'; '.join(parts)}." if parts else ""


def _cited() -> list[TableRow]:
    """The rows of published.csv."""

    def figure(text: str) -> float | None:
        return float(text) if text else None

    return [
        TableRow(
            method=row["method"],
            fd=figure(row["fd"]),
            is_=figure(row["is"]),
            kl=figure(row["kl"]),
            fad=figure(row["fad"]),
            clap=figure(row["clap"]),
            parameters_m=figure(row["parameters_m"]),
            seconds=figure(row["seconds"]),
            source=row["source"],
        )
        for row in read_table(_PUBLISHED)[1]
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(text: str) -> str:
    """Plain text with the special characters of LaTeX escaped."""
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: signs.get(found[0], "\\" + found[0]), text)
