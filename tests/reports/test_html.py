"""The HTML report as text: what stands in it, in which order, matched how."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.cli import app
from soundcrafter.reports.html import write_html

FACTS = {
    "version": "0",
    "generated": 2,
    "reference": 3,
    "resampler": "soxr HQ",
    "seed": 0,
    "embedders": [{"embedder": "tagger", "sha256": "0123456789abcdef", "sample_rate": 16000}],
}
NOTHING = {"reference": None, "clap": None, "heard": None, "probability": None, "expected": None}


def evaluation(out: Path, name: str, sounds: list[dict]) -> Path:
    """An evaluation's folder, each of its sounds a short tone of its own."""
    listed = []
    for place, sound in enumerate(sounds):
        file = f"generated/{place}.wav"
        (out / "generated").mkdir(parents=True, exist_ok=True)
        wave = 0.3 * np.sin(0.1 * (place + 1) * np.arange(1600))
        write_audio(out / file, wave.astype("f4"), 16000)
        listed.append({"file": file, "seed": 0, "seconds": 0.1, "family": "", **NOTHING, **sound})
    report = FACTS | {"name": name, "parameters": 1_000_000, "sounds": listed}
    (out / "report.json").write_text(json.dumps(report))
    return out


def rows_of(page: Path) -> list[tuple[str, list, list[str]]]:
    """Each row's prompt, values, and cells without tags."""
    body = page.read_text(encoding="utf-8").split("<tbody>")[-1]
    rows = []
    for row in re.findall(r"<tr .*?</tr>", body, re.DOTALL):
        values = json.loads(unescape(re.findall(r'data-values="(.*?)"', row)[0]))
        cells = [unescape(re.sub(r"<.*?>", "", c)) for c in re.findall(r"<td.*?</td>", row)]
        prompt = re.findall(r'<th scope="row" class="prompt">(.*?)<', row)[0]
        rows.append((unescape(prompt), values, cells))
    return rows


def prompts_of(page: Path) -> list[str]:
    return [prompt for prompt, _, _ in rows_of(page)]


def options_of(page: Path) -> list[str]:
    return re.findall(r"<option .*?>(.*?)<", page.read_text(encoding="utf-8"))


def test_the_worst_by_the_family_come_first(tmp_path):
    sounds = [
        {"prompt": "rain", "expected": 0.5, "clap": 0.1},
        {"prompt": "no family", "clap": 0.0},
        {"prompt": "dog", "expected": 0.25, "clap": 0.9},
    ]
    out, page = evaluation(tmp_path / "a", "mini", sounds), tmp_path / "page.html"
    write_html([out], page)
    assert prompts_of(page) == ["dog", "rain", "no family"]
    assert options_of(page)[0] == "probability of the requested family"
    assert rows_of(page)[0][1] == [0.25, 2, "dog", 0.9]


def test_else_by_clap_else_in_the_order_of_the_prompts(tmp_path):
    page = tmp_path / "page.html"
    scored = [{"prompt": "b", "clap": 0.5}, {"prompt": "a", "clap": -0.5}]
    write_html([evaluation(tmp_path / "a", "mini", scored)], page)
    assert prompts_of(page) == ["a", "b"]
    write_html([evaluation(tmp_path / "b", "mini", [{"prompt": "b"}, {"prompt": "a"}])], page)
    assert prompts_of(page) == ["b", "a"]
    assert options_of(page) == ["order of the prompts", "prompt"]


def test_what_the_tagger_heard_is_told_right_or_wrong(tmp_path):
    sounds = [
        {"prompt": "a", "family": "dog bark", "heard": "dog bark", "probability": 0.75},
        {"prompt": "b", "family": "dog bark", "heard": "rain", "probability": 0.5},
        {"prompt": "c", "heard": "rain", "probability": 0.5},
    ]
    write_html([evaluation(tmp_path / "a", "mini", sounds)], tmp_path / "page.html")
    cells = [cells[1:] for _, _, cells in rows_of(tmp_path / "page.html")]
    assert cells == [["✓ dog bark", "0.750"], ["✗ rain", "0.500"], ["rain", "0.500"]]


def test_models_are_matched_by_prompt_and_seed(tmp_path):
    first = [
        {"prompt": "rain", "seed": 0, "clap": 0.5},
        {"prompt": "rain", "seed": 1, "clap": 0.25},
        {"prompt": "rain", "seed": 1, "clap": 0.125},  # a second caption of the same words
    ]
    second = [
        {"prompt": "rain", "seed": 1, "clap": 0.75},
        {"prompt": "dog", "seed": 0, "clap": 1.0},
        {"prompt": "rain", "seed": 0, "clap": 0.0},
    ]
    outs = [evaluation(tmp_path / "a", "ours", first), evaluation(tmp_path / "b", "base", second)]
    write_html(outs, tmp_path / "page.html")
    rows = [(prompt, values[4:]) for prompt, values, _ in rows_of(tmp_path / "page.html")]
    assert rows == [
        ("rain", [0.5, 0.0]),
        ("rain", [0.125, None]),
        ("rain", [0.25, 0.75]),
        ("dog", [None, 1.0]),
    ]
    assert options_of(tmp_path / "page.html") == [
        "worst model: CLAP: cosine of prompt and sound",
        "largest difference between models: CLAP: cosine of prompt and sound",
        "order of the prompts",
        "prompt",
        "ours: CLAP: cosine of prompt and sound",
        "base: CLAP: cosine of prompt and sound",
    ]
    apart = [values[1] for _, values, _ in rows_of(tmp_path / "page.html")]
    assert apart == [0.5, None, 0.5, None]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count(">no sound<") == 2
    assert text.count("<audio ") == 6


def test_prompts_are_text_and_nothing_else(tmp_path):
    wild = '</script><img src=x onerror="alert(1)">&\'"'
    out = evaluation(tmp_path / "a", "<b>", [{"prompt": wild, "family": "<i>", "heard": "<u>"}])
    write_html([out], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert prompts_of(tmp_path / "page.html") == [wild]
    assert not re.search(r"<(b|u|i|img src=x)>", text.replace("<i></i>", ""))
    assert text.count("</script>") == 1


def test_the_page_needs_nothing_but_itself(tmp_path):
    out = evaluation(tmp_path / "a", "mini", [{"prompt": "rain"}, {"prompt": "dog"}])
    seen = []
    write_html([out], tmp_path / "page.html", lambda *counts: seen.append(counts))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="(.{20})', text)
    assert len(sources) == 4
    assert all(source.startswith(("data:image/png;", "data:audio/mpeg;")) for source in sources)
    assert "http:" not in text
    assert "https:" not in text
    assert seen == [(1, 2), (2, 2)]


def test_figures_of_the_models_stand_above(tmp_path):
    out = evaluation(tmp_path / "a", "mini", [{"prompt": "rain"}])
    report = json.loads((out / "report.json").read_text())
    report["recognised"] = {"accuracy": 0.5, "interval": [0.25, 0.75], "n": 2}
    (out / "report.json").write_text(json.dumps(report))
    write_html([out], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "0.500 (0.250 to 0.750)" in text
    assert "seed 0, resampler soxr HQ, soundcrafter 0; embedders tagger 0123456789ab at" in text
    assert "published in Tab. 3 of the paper" in text


def test_the_same_folders_give_the_same_page(tmp_path):
    out = evaluation(tmp_path / "a", "mini", [{"prompt": "rain", "clap": 0.5}])
    for name in ("1.html", "2.html"):
        write_html([out], tmp_path / name)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_a_page_without_timing_ignores_timing_json(tmp_path):
    out, page = evaluation(tmp_path / "a", "mini", [{"prompt": "rain"}]), tmp_path / "page.html"
    pages = []
    for seconds in (1.25, 2.5):
        (out / "timing.json").write_text(json.dumps({"seconds_per_clip": seconds}))
        write_html([out], page, timing=False)
        pages.append(page.read_bytes())
        write_html([out], page)
        assert f'<td class="number">{seconds}</td>' in page.read_text(encoding="utf-8")
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("report", "fault"),
    [
        (FACTS | {"sounds": [{"prompt": "rain", "seed": 0}]}, "the sound .* lacks file"),
        (FACTS | {"sounds": ["rain"]}, "the sound rain lacks file"),
        (FACTS | {"sounds": 3}, "lists no sounds"),
        (FACTS | {"embedders": [{"embedder": "tagger"}]}, "the embedder .* lacks sha256"),
    ],
)
def test_a_malformed_report_is_an_error(report, fault, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match=rf"report\.json: .*{fault}"):
        write_html([tmp_path], tmp_path / "page.html")


def test_faults(tmp_path):
    out = tmp_path / "a"
    out.mkdir()
    (out / "report.json").write_text(json.dumps(FACTS))
    with pytest.raises(ValueError, match=r"report\.json: lists no sounds; allowed: .*captions"):
        write_html([out], tmp_path / "page.html")
    out = evaluation(tmp_path / "b", "mini", [{"prompt": "rain"}])
    (out / "generated" / "0.wav").unlink()
    with pytest.raises(ValueError, match=r"0\.wav: no such file"):
        write_html([out], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_the_page_or_prints_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = str(evaluation(tmp_path / "a", "mini", [{"prompt": "rain"}]))
    app(["report", folder], standalone_mode=False)
    assert capsys.readouterr().out == "report.html\n"
    assert prompts_of(tmp_path / "report.html") == ["rain"]
    (tmp_path / "report.html").unlink()
    app(["report", folder, "--table", "latex"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("% needs")
    assert not (tmp_path / "report.html").exists()
    app(["report", folder, folder, "--table", "md", "--out", "two.html"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("| method | FD |")
    assert prompts_of(tmp_path / "two.html") == ["rain"]
