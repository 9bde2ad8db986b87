"""The table in the form of the paper's Tab. 3: published and measured rows."""

import json
import re
from pathlib import Path

import pytest

from soundcrafter.reports.table import table_latex, table_markdown, table_rows

DOC = Path(__file__).resolve().parents[2] / "docs" / "paper.md"


def entry(embedder: str, **figures) -> dict:
    return {"embedder": embedder, "sha256": "0123456789abcdef", "sample_rate": 16000, **figures}


TAGGER = entry("tagger", fd=30.0, kl={"mean": 1.5, "pairs": 9}, floor={"fd": 9.5, "n": 20})
TAGGER["is"] = {"mean": 8.0, "std": 0.1, "splits": 2}
PANNS = entry("panns-16k", fd=25.125, kl={"mean": 1.25, "pairs": 9})
VGGISH, CLAP = entry("vggish", fd=2.5), entry("clap", fd=0.1, clap={"mean": 0.3333333, "n": 9})


def evaluation(out: Path, *embedders: dict, timing: dict | None = None, **facts) -> Path:
    out.mkdir()
    report = {"generated": 9, "reference": 40, "embedders": list(embedders), **facts}
    (out / "report.json").write_text(json.dumps(report))
    if timing is not None:
        (out / "timing.json").write_text(json.dumps(timing))
    return out


def measured(out: Path):
    (row,) = [row for row in table_rows([out]) if row.source == "measured"]
    return row


def cells_of(markdown: str) -> list[list[str]]:
    lines = (line for line in markdown.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def test_a_measured_row(tmp_path):
    out = evaluation(
        tmp_path / "a",
        TAGGER,
        CLAP,
        name="mini (bundled)",
        parameters=20_000_000,
        unet_parameters=9_876_543,
        sounds=[{"seconds": 4.0}, {"seconds": 6.0}],
        timing={"seconds_per_clip": 1.75, "processes": 2, "threads": 1, "device": "cpu"},
    )
    row = measured(out)
    assert row.method == "mini (bundled)"
    assert row.cells == ["30", "8", "1.5", "-", "0.3333", "9.877", "1.75"]
    assert row.origin == "measured, tagger, N 9"
    assert row.note == (
        "mini (bundled): FD of two halves of the recordings 9.5, N 20 each; IS over 2 splits; "
        "CLAP with the weights 0123456789ab; clips of 5 s generated on cpu, processes 2, threads 1."
    )


def test_the_fields_embedder_comes_before_ours_and_fad_is_vggishs(tmp_path):
    row = measured(evaluation(tmp_path / "a", TAGGER, PANNS, VGGISH))
    assert row.detail == "panns-16k, N 9"
    assert (row.fd, row.is_, row.kl, row.fad) == (25.125, None, 1.25, 2.5)


def test_what_was_not_measured_is_a_dash(tmp_path):
    row = measured(evaluation(tmp_path / "two-folders", CLAP | {"clap": None}))
    assert row.method == "two-folders"
    assert row.cells == ["-"] * 7
    assert row.detail == "no tagger, N 9"


def test_equal_names_are_told_apart_by_folder(tmp_path):
    outs = [evaluation(tmp_path / name, TAGGER, name="mini") for name in ("a", "b")]
    assert [row.method for row in table_rows(outs)[-2:]] == [f"mini [{out}]" for out in outs]


def test_cited_rows_are_those_of_the_papers_page(tmp_path):
    rows = table_rows([evaluation(tmp_path / "a", TAGGER)])
    cited = {(row.method, row.source): row for row in rows if row.source != "measured"}
    section = DOC.read_text(encoding="utf-8").split("### Tab. 3\n")[1].split("\n## ")[0]
    lines = cells_of(section)[2:]
    assert len(lines) == 7
    for name, *figures in lines:
        method = name.replace(", fine-tuned", "-Full-FT")
        both = [cited.get((method, source)) for source in ("paper", "tango")]
        paper, tango = (row.cells if row else ["-"] * 7 for row in both)
        found = [paper[0], paper[1], paper[5], tango[0], tango[2], tango[3]]
        assert found == figures, method
    assert len(cited) == 10


def test_markdown_marks_where_rows_are_from(tmp_path):
    out = evaluation(tmp_path / "a", TAGGER, name="a|b")
    text = table_markdown(table_rows([out]))
    head, rule, *lines = cells_of(text)
    assert head == [
        *(
            "method",
            "FD",
            "IS",
            "KL",
            "FAD",
            "CLAP",
            "generator parameters (M)",
            "seconds per clip",
            "source",
        ),
    ]
    assert len(rule[0].split("|")) == len(head)
    assert {line[-1] for line in lines} == {
        "published in Tab. 3 of the paper",
        "published in TANGO's README",
        "measured, tagger, N 9",
    }
    assert [line[0] for line in lines if line[0].startswith("**")] == ["**a\\|b**"]
    assert all(line[0].endswith(" (published)") for line in lines if "measured" not in line[-1])
    assert "not directly comparable" in text.splitlines()[-1]
    assert "generative network alone" in text


def test_latex_is_whole_and_harmless(tmp_path):
    out = evaluation(tmp_path / "a", TAGGER, name=r"50%_of & ~\^{x}$#")
    text = table_latex(table_rows([out]))
    assert r"50\%\_of \& \textasciitilde{}\textbackslash{}\textasciicircum{}\{x\}\$\#" in text
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begun == ["table", "tabular"] == ended[::-1]
    lines = [line for line in text.splitlines() if line.endswith(r"\\") and "&" in line]
    assert len(lines) == 12
    assert all(len(re.findall(r"(?<!\\)&", line)) == 8 for line in lines)
    headings = re.findall(r"\\emph{(.*?)}", text)
    assert headings == [
        "Published in Tab. 3 of the paper",
        "Published in TANGO's README",
        "Measured",
    ]
    assert text.count(r"\midrule") == 3


def test_faults(tmp_path):
    with pytest.raises(ValueError, match="got no folder"):
        table_rows([])
    with pytest.raises(ValueError, match=r"report\.json: No such file"):
        table_rows([tmp_path])
    (tmp_path / "report.json").write_text('{"links": {}}')
    with pytest.raises(ValueError, match=r"report\.json: is not a comparison of sounds; allowed"):
        table_rows([tmp_path])
