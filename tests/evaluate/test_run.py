"""A model on prompts as a whole: several processes, a kill in the middle, what is written."""

import csv
import json
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.audio import audio_info
from soundcrafter.cli import main
from soundcrafter.data.manifest import read_manifest
from soundcrafter.evaluate.compare import card_figures
from soundcrafter.evaluate.embedders import open_embedder
from soundcrafter.evaluate.generate import draw_prompts, generate_prompts, plan_batches
from soundcrafter.evaluate.jobs import open_models
from soundcrafter.evaluate.prompt_sets import Prompt, caption_prompts
from soundcrafter.evaluate.run import evaluate_prompts
from soundcrafter.evaluate.sound_files import find_recordings
from soundcrafter.files import write_csv
from soundcrafter.listening.answers import RESULT_COLUMNS
from soundcrafter.reports.html import write_html
from soundcrafter.train.release import release
from soundcrafter.workers import Workers

SEEDS = 8  # a batch each, of the six clips' captions


@pytest.fixture(scope="module")
def one_thread():
    """As the processes that are started here have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def opened(tiny_model):
    return partial(
        open_models,
        str(tiny_model),
        "cpu",
        [partial(open_embedder, "tagger"), partial(open_embedder, "clap")],
    )


@pytest.fixture(scope="module")
def measure(one_thread, opened, tiny_model, clips):
    """Evaluate the tiny model on the clips' captions."""
    models = opened()

    def go(out, prompts=None, **options):
        return evaluate_prompts(
            models.model,
            prompts or caption_prompts(clips, "train"),
            find_recordings(clips, "train"),
            models.embedders,
            out,
            name=tiny_model.name,
            data=clips,
            split="train",
            **options,
        )

    return go


@pytest.fixture(scope="module")
def whole(measure, tmp_path_factory):
    """The folder of an evaluation in this process."""
    out = tmp_path_factory.mktemp("whole")
    measure(out, seeds=SEEDS)
    return out


def test_what_is_known_of_each_sound(whole, tiny_model, clips):
    report = json.loads((whole / "report.json").read_text())
    assert (report["name"], report["split"], report["limit"]) == ("model", "train", None)
    assert report["generated"] == len(report["sounds"]) == 6 * SEEDS
    recordings = read_manifest(clips, split="train").recordings
    assert [row["prompt"] for row in report["sounds"][:6]] == [r.caption for r in recordings]
    for row in report["sounds"]:
        assert row["seconds"] == audio_info(whole / row["file"]).seconds == 1.0
        assert -1 <= row["clap"] <= 1
        assert row["heard"]
        assert 0 < row["probability"] <= 1
        assert (row["family"], row["expected"]) == ("", None)
        assert (clips / row["reference"]).is_file()
    scores = [row["clap"] for row in report["sounds"]]
    mean = report["embedders"][1]["clap"]["mean"]
    assert sum(scores) / len(scores) == pytest.approx(mean, abs=1e-6)
    assert (whole / "report.md").read_text().startswith("N generated 48")


def test_a_killed_evaluation_in_two_processes_gives_the_same_bytes(
    whole, launch, fork_workers, tiny_model, clips, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "cut"
    process = launch("evaluate", *words_of(tiny_model, clips, out), fork_workers=False)
    deadline = time.monotonic() + 200
    while not list(out.glob("generated/**/*.wav")):
        assert process.poll() is None, process.errors()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert len(workers) >= 2
    while any(alive(worker) for worker in workers):  # none goes on by itself
        assert time.monotonic() < deadline
        time.sleep(0.05)
    made = {file: file.read_bytes() for file in out.glob("generated/**/*.wav")}
    assert 0 < len(made) < 6 * SEEDS
    assert not (out / "report.json").exists()
    call(monkeypatch, capsys, *words_of(tiny_model, clips, out))
    assert {file: file.read_bytes() for file in made} == made
    assert (out / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    write_html([whole], tmp_path / "whole.html", timing=False)
    assert (out / "report.html").read_bytes() == (tmp_path / "whole.html").read_bytes()
    timing = json.loads((out / "timing.json").read_text())
    assert (timing["processes"], timing["threads"], timing["device"]) == (2, 1, "cpu")
    assert 0 < timing["seconds_per_clip"] < 60
    assert timing["cpu"]


def words_of(model: Path, data: Path, out: Path) -> list[str]:
    words = ["captions", str(model), "--data", str(data), "--split", "train"]
    words += ["--seeds", str(SEEDS), "--processes", "2", "--out", str(out), "--device", "cpu"]
    return words


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_one_process_and_two_make_the_same(measure, fork_workers, opened, tmp_path):
    prompts = [Prompt(text, "rain") for text in ("it pours", "a shower", "drizzle on leaves")]
    reports = [
        measure(tmp_path / str(count), prompts, seeds=3, workers=workers)
        for count, workers in ((1, None), (2, Workers(2, 1, opened)))
    ]
    one, two = ((tmp_path / name / "report.json").read_bytes() for name in ("1", "2"))
    assert one == two
    assert reports[0]["recognised"]["n"] == 9
    for row in reports[0]["sounds"]:
        assert row["family"] == "rain"
        assert 0 <= row["expected"] <= row["probability"]
    with pytest.raises(ValueError, match=r"contains sounds made with 1 threads per process, not 5"):
        measure(tmp_path / "2", prompts, seeds=3, workers=Workers(2, 5, opened))


def test_sounds_are_kept_by_family(measure, clips, tmp_path):
    prompts = [Prompt("it pours", "rain"), Prompt("woof", "dog bark"), Prompt("drizzle", "rain")]
    out, keep = tmp_path / "out", tmp_path / "keep"
    report = measure(out, prompts, seeds=2, keep=keep)
    copies = [keep / row["family"] / Path(row["file"]).name for row in report["sounds"]]
    assert sorted(keep.rglob("*.wav")) == sorted(copies)
    assert len(list((keep / "rain").iterdir())) == 4
    for row, copy in zip(report["sounds"], copies, strict=True):
        assert copy.read_bytes() == (out / row["file"]).read_bytes()
    copies[0].unlink()
    assert measure(out, prompts, seeds=2, keep=keep) == report
    assert copies[0].read_bytes() == (out / report["sounds"][0]["file"]).read_bytes()
    with pytest.raises(ValueError, match=r"keep: contains sounds that differ in prompts"):
        measure(tmp_path / "again", prompts, seeds=1, keep=keep)


def test_prompts_that_cannot_be_sorted_by_family(measure, clips, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"the family '../rain' cannot be the name of a folder"):
        measure(tmp_path / "out", [Prompt("it pours", "../rain")], keep=tmp_path / "keep")
    (tmp_path / "plain.txt").write_text("a dog barks\n")
    words = ["evaluate", "prompts", tmp_path / "plain.txt", "--data", clips, "--split", "train"]
    words += ["--out", tmp_path / "out", "--keep", tmp_path / "keep"]
    monkeypatch.setattr(sys, "argv", ["soundcrafter", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "--keep: needs prompts with a family" in errors
    assert errors.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["plain.txt"]


def test_a_recording_that_cannot_be_decoded_is_skipped(measure, tmp_path, monkeypatch):
    from soundcrafter.evaluate import embedding

    read = embedding.read_audio
    broken = []

    def fail_once(file, rate):
        if "generated" not in file.parts and broken in ([], [file]):
            broken[:] = [file]
            raise ValueError(f"{file}: cannot be decoded")
        return read(file, rate)

    monkeypatch.setattr(embedding, "read_audio", fail_once)
    report = measure(tmp_path, limit=2)
    assert (report["generated"], report["reference"]) == (2, 5)
    (reason,) = report["skipped"]["reference"].values()
    assert reason == f"{broken[0]}: cannot be decoded"


def test_captions_are_paired_with_their_recordings(measure, clips, tmp_path):
    report = measure(tmp_path, limit=4)
    assert report["limit"] == report["generated"] == report["pairs"] == 4
    assert report["reference"] == 6
    for row in report["sounds"]:
        assert (clips / row["reference"]).is_file()
        assert Path(row["file"]).stem == Path(row["reference"]).stem
    with pytest.raises(ValueError, match="differ in prompts"):
        measure(tmp_path, limit=5)
    with pytest.raises(ValueError, match="limit: got 0"):
        measure(tmp_path, limit=0)
    with pytest.raises(ValueError, match="splits: got 0; at least 1"):
        measure(tmp_path / "none", splits=0)
    assert not (tmp_path / "none").exists()


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_a_limit_draws_the_same_ones_in_their_order(count, low, high, seed):
    prompts = [Prompt(f"{number:02d}", "") for number in range(count)]
    low, high = sorted((low, high))
    few, more = draw_prompts(prompts, low, seed), draw_prompts(prompts, high, seed)
    assert few == draw_prompts(prompts, low, seed)
    assert len(few) == min(low, count)
    assert set(few) <= set(more)
    assert list(few) == sorted(few, key=lambda prompt: prompt.text)
    assert draw_prompts(prompts, None, seed) == tuple(prompts)


def test_a_folder_of_sounds_of_another_model(whole, measure, tmp_path, opened):
    model = opened().model
    generate_prompts(model, [Prompt("rain", "")], tmp_path)
    model.training_ids["adapter x"] = "1.0"
    with pytest.raises(ValueError, match="differ in model; use another folder"):
        generate_prompts(model, [Prompt("rain", "")], tmp_path)


def test_a_card_takes_the_figures(whole, tiny_model, tmp_path):
    figures = json.loads((whole / "figures.json").read_text())
    report = json.loads((whole / "report.json").read_text())
    (tagger,) = [facts for name, facts in figures.items() if "by tagger" in name]
    assert tagger["FD"] == report["embedders"][0]["fd"]
    assert tagger["generated"] == 48
    (clap,) = [facts for name, facts in figures.items() if "by clap" in name]
    assert clap["CLAP"] == report["embedders"][1]["clap"]["mean"]
    card = release(tiny_model, tmp_path / "release", figures=figures) / "README.md"
    assert f"CLAP {clap['CLAP']:.3g}" in card.read_text()


def test_figures_that_are_not_there_are_left_out():
    counts = {"generated": 1, "reference": 3, "pairs": 0}
    ear = {"embedder": "ear", "sha256": "0" * 64, "fd": None, "is": {"mean": 2.0}}
    hits = {"accuracy": 0.5, "n": 2}
    report = {"embedders": [ear], "recognised": {**hits, "interval": [0.1, 0.9]}, **counts}
    assert card_figures(report) == {
        "sounds for prompts, by ear 000000000000": {"IS": 2.0, **counts},
        "recognised as their family by the tagger, prompts": hits,
    }


def call(monkeypatch, capsys, *words) -> str:
    """What the command prints, all being well."""
    monkeypatch.setattr(sys, "argv", ["soundcrafter", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    printed, errors = capsys.readouterr()
    assert end.value.code == 0, errors
    return printed


def test_a_listening_test_and_what_came_of_it(whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "listen"
    words = ["listen", folder, "--system", f"a={whole}", "--kind", "mos", "--count", 2]
    printed = call(monkeypatch, capsys, *words)
    assert "2 items" in printed
    assert (folder / "index.html").is_file()
    with open(folder / "key.csv", newline="") as stream:
        key = list(csv.DictReader(stream))
    graded = [("me", row["item"], "mos", "quality", 4, 1.5, 1, row["sound"]) for row in key]
    write_csv(folder / "results.csv", RESULT_COLUMNS, graded)
    said = call(monkeypatch, capsys, "listen-results", folder, folder / "results.csv")
    assert said.strip() == (folder / "listening.md").read_text().strip()
    report = json.loads((folder / "listening.json").read_text())
    assert (report["kind"], report["answers"]) == ("mos", 2)


def test_a_prompt_that_comes_again_gets_another_seed():
    prompts = [Prompt(text, "", name) for text, name in zip("aba", "xyz", strict=True)]
    (first,), (again,) = (
        [batch for batch in plan_batches(prompts) if batch[0].seed == s] for s in (0, 1)
    )
    assert [(p.stem, p.seed) for p in (*first, *again)] == [("x", 0), ("y", 0), ("z", 1)]
    twice = [(p.stem, p.seed) for batch in plan_batches(prompts, seeds=2, seed=5) for p in batch]
    assert twice == [("x-5", 5), ("y-5", 5), ("x-6", 6), ("y-6", 6), ("z-7", 7), ("z-8", 8)]
