"""Tables in the form of the paper's Tab. 3: published rows, and measured rows of evaluations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from soundcrafter.data.tables import read_table
from soundcrafter.files import read_json
from soundcrafter.markdown import markdown_table
from soundcrafter.reports.evaluations import read_reports

COLUMNS = ("FD", "IS", "KL", "FAD", "CLAP", "generator parameters (M)", "seconds per clip")
SOURCES = {  # the `source` of a row -> its description
    "paper": "published in Tab. 3 of the paper",
    "tango": "published in TANGO's README",
    "measured": "measured",
}
# FD, IS and KL are those of the first of these embedders in a report.
_CLASSIFIERS = ("panns-16k", "panns-32k", "tagger")
_PUBLISHED = Path(str(resources.files("soundcrafter"))) / "reports" / "published.csv"
_PUBLISHED_NOTE = (
    "Published figures are not directly comparable with measured ones, because embedder, "
    "recordings and N differ. The paper's seconds are for 10 s on an RTX 3090; TANGO's README "
    "reports results on the test clips of AudioCaps."
)
_PARAMETERS_NOTE = (
    "Generator parameters are those of the generative network alone (the U-Net of a diffusion "
    "model), without text encoder, VAE and vocoder."
)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One method and its figures; None if a figure is not known."""

    method: str
    fd: float | None  # Fréchet distance in the embedder's features
    is_: float | None  # inception score, mean
    kl: float | None  # of sounds paired by name
    fad: float | None  # Fréchet distance in VGGish's features
    clap: float | None  # mean cosine of prompt and sound
    parameters_m: float | None  # of the generative network, in millions
    seconds: float | None  # to generate one clip
    source: str  # a key of SOURCES
    detail: str = ""  # of a measured row: embedder and N
    note: str = ""  # of a measured row: how it was measured

    @property
    def label(self) -> str:
        """The method, marked if its figures are published ones."""
        return self.method if self.source == "measured" else f"{self.method} (published)"

    @property
    def cells(self) -> list[str]:
        """The figures as text, in the order of COLUMNS."""
        figures = (self.fd, self.is_, self.kl, self.fad, self.clap, self.parameters_m, self.seconds)
        return ["-" if figure is None else f"{figure:.4g}" for figure in figures]

    @property
    def origin(self) -> str:
        """The source of the figures, as text."""
        return ", ".join(part for part in (SOURCES[self.source], self.detail) if part)


def table_rows(outs: Sequence[Path], *, timing: bool = True) -> list[TableRow]:
    """Return the published rows, then one measured row per folder, with or without its timing.

    Raises ValueError as `read_reports`.
    """
    measured = [
        _measured(out, report, timing) for out, report in zip(outs, read_reports(outs), strict=True)
    ]
    return [*_published(), *measured]


def table_markdown(rows: Sequence[TableRow]) -> str:
    """Return the table in Markdown: measured methods in bold, the source of the figures in the last
    column, and notes on how far they are comparable."""
    cells = [
        [f"**{row.label}**" if row.source == "measured" else row.label, *row.cells, row.origin]
        for row in rows
    ]
    lines = markdown_table(["method", *COLUMNS, "source"], cells, right=COLUMNS)
    return "\n".join([*lines, "", *table_notes(rows)]) + "\n"


def table_latex(rows: Sequence[TableRow]) -> str:
    """Return the table in LaTeX (package booktabs), with a rule and a heading for each source."""
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
        heading = SOURCES[source][0].upper() + SOURCES[source][1:]
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{heading}}}}} \\\\"]
        for row in group:
            cells = [row.label, *row.cells, row.detail]
            lines.append(f"{' & '.join(_latex(cell) for cell in cells)} \\\\")
    notes = _latex(" ".join(table_notes(rows)))
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{notes}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def table_notes(rows: Sequence[TableRow]) -> list[str]:
    """Return notes on how the rows were measured, and how far they are comparable."""
    notes = ["FAD is the FD with VGGish's features.", _PARAMETERS_NOTE]
    notes += [row.note for row in rows if row.note]
    return [*notes, _PUBLISHED_NOTE] if any(row.source != "measured" for row in rows) else notes


def _measured(out: Path, report: Mapping[str, Any], with_timing: bool) -> TableRow:
    found = {entry["embedder"]: entry for entry in report["embedders"]}
    classifier: Mapping[str, Any] = next(
        (found[name] for name in _CLASSIFIERS if name in found), {}
    )
    clap: Mapping[str, Any] = next(
        (entry for entry in report["embedders"] if entry.get("clap")), {}
    )
    file = out / "timing.json"
    timing = read_json(file) if with_timing and file.is_file() else {}
    count = report.get("unet_parameters")
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
    """How the row was measured: floor, splits, CLAP weights, clips and machine."""
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


def _published() -> list[TableRow]:
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


def _latex(text: str) -> str:
    """Escape the special characters of LaTeX in plain text."""
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: signs.get(found[0], "\\" + found[0]), text)
