"""Scores while a U-Net trains, and the pictures and times of a training."""

import json
import math
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
from matplotlib import image

from soundcrafter import cli
from soundcrafter.audio import audio_info
from soundcrafter.train import TrainingInterrupted
from soundcrafter.train.checkpoint import list_checkpoints, run_folder
from soundcrafter.train.log import SCORES, Log, phase_borders, read_log
from soundcrafter.train.report import plot_training, report_markdown, training_report
from soundcrafter.train.score import ScoreOptions


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_model, clips, go):
    """The tiny model with a scored U-Net of two phases: 5 steps, scores after 2, 4 and 5."""
    folder = tmp_path_factory.mktemp("score") / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("diffusion"))
    go(
        "diffusion",
        folder,
        "diffusion.steps=5",
        "diffusion.curriculum=[{share=0.4, seconds=0.32, batch_size=8},{share=0.6, seconds=0.64}]",
        data=clips,
        score=ScoreOptions(steps=2, data=clips, split="train", prompts=4),
    )
    return folder


def test_scores_come_when_due_and_at_the_end(scored, clips):
    scores = read_log(run_folder(scored, "diffusion"), SCORES)
    assert [entry["step"] for entry in scores] == [2, 4, 5]
    for entry in scores:
        assert (entry["n"], entry["reference"]) == (4, 6)
        assert entry["fd"] > entry["fd_floor"] > 0  # noise is further off than half the clips
        assert entry["fd_at_floor_n"] > entry["fd_floor"]
        assert 1 <= entry["is"] <= 4
        assert math.isfinite(entry["kl"])
        assert entry["scoring_seconds"] > 0
    assert len({entry["fd"] for entry in scores}) == 3  # of other weights each time
    folders = sorted(run_folder(scored, "diffusion").glob("scores/step-*"))
    prompts = [json.loads((f / "generated" / "prompts.json").read_text()) for f in folders]
    assert prompts[0]["prompts"] == prompts[2]["prompts"]
    assert len(prompts[0]["prompts"]) == 4
    for folder in folders:
        files = list((folder / "generated").rglob("*.wav"))
        assert len(files) == 4
        assert all(audio_info(file).seconds == pytest.approx(1.0) for file in files)
        report = json.loads((folder / "report.json").read_text())
        assert report["seed"] == 0


def test_scoring_is_no_time_of_training(scored, tmp_path):
    entries = read_log(run_folder(scored, "diffusion"))
    scoring = sum(e["scoring_seconds"] for e in read_log(run_folder(scored, "diffusion"), SCORES))
    assert entries[-1]["seconds"] < scoring  # five tiny steps
    log = Log(tmp_path, 0, None)
    log.score(1, {"fd": 1.0, "scoring_seconds": 100.0})
    log.write(1, 4, {})
    log.close()
    assert read_log(tmp_path)[0]["seconds"] < 0


def test_a_resumed_run_drops_scores_past_its_checkpoint(tmp_path):
    log = Log(tmp_path, 0, None)
    for step in (2, 4):
        log.write(step, 8, {})
        log.score(step, {"fd": float(step), "scoring_seconds": 0.0})
    log.close()
    Log(tmp_path, 3, None).close()
    assert [entry["step"] for entry in read_log(tmp_path, SCORES)] == [2]
    assert [entry["step"] for entry in read_log(tmp_path)] == [2]


def test_what_cannot_be_scored_is_refused_before_training(go, clips, encoded, tmp_path):
    score = ScoreOptions(steps=1, data=clips, split="train")
    with pytest.raises(ValueError, match="score: supported only when training the U-Net, not vae"):
        go("vae", tmp_path / "v", data=clips, score=score)
    with pytest.raises(ValueError, match="scores need clap_audio, clap_text, vae, vocoder"):
        go("diffusion", tmp_path / "d", data=encoded, score=score)
    with pytest.raises(
        ValueError, match="compile: supported only when training the U-Net, not vae"
    ):
        go("vae", tmp_path / "v", data=clips, compile=True)
    with pytest.raises(ValueError, match="at least 1, 2, 0"):
        ScoreOptions(steps=0, data=clips)


def test_the_report_of_a_training(scored):
    report = training_report(scored)["stages"]
    assert list(report) == ["clap", "vae", "vocoder", "diffusion"]
    facts = report["diffusion"]
    assert (facts["steps"], facts["of"], facts["hours_left"]) == (5, 5, 0)
    assert [(p["phase"], p["steps"]) for p in facts["phases"]] == [(1, 2), (2, 3)]
    for phase, batch in zip(facts["phases"], (8, 4), strict=True):
        ratio = phase["samples_per_second"] / phase["steps_per_second"]
        assert ratio == pytest.approx(batch, rel=0.1)  # hundredths of a second are rounded
        assert phase["memory_gb"] > 0.1
    assert facts["scoring_hours"] > 0
    assert "| diffusion | 2 | 3 |" in report_markdown({"stages": report})


def test_pictures_of_a_training(scored, tmp_path):
    written = plot_training(scored, tmp_path / "plots")
    assert [file.name for file in written] == ["losses.png", "scores.png", "samples.png"]
    for file in written:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 10_000


def test_pictures_of_sounds_have_their_captions_as_titles(scored, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "soundcrafter.train.report.plot_grid", lambda waves, *_, **__: titles.extend(waves)
    )
    plot_training(scored, tmp_path / "plots")
    run = run_folder(scored, "diffusion") / "scores"
    prompts = json.loads(next(run.glob("step-*/generated/prompts.json")).read_text())["prompts"]
    captions = [caption for caption, _ in prompts.values()]
    assert titles
    for title in titles:
        first, step = title.split("\n")
        number, _, caption = first.partition(". ")
        assert captions[int(number) - 1].startswith(caption.removesuffix("..."))
        assert step.startswith("step ")


def test_a_folder_without_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match="contains no training run"):
        training_report(tmp_path)


def test_logs_without_seconds_have_pictures_but_no_times(scored, tmp_path):
    run = tmp_path / "training" / "vae"
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text(
        '{"step": 5, "loss": 1.0, "kl": 1.0, "samples_per_second": 2.0}\n'
    )
    assert training_report(tmp_path) == {"stages": {}}
    assert [file.name for file in plot_training(tmp_path, tmp_path)] == ["losses.png"]


def test_a_grid_of_equal_captions_and_of_what_is_still_there(scored, tmp_path):
    model = Path(shutil.copytree(scored, tmp_path / "model"))
    places = sorted((run_folder(model, "diffusion") / "scores").glob("step-*"))
    shutil.rmtree(places[1])
    for place in (places[0], places[2]):
        index = place / "generated" / "prompts.json"
        found = json.loads(index.read_text())
        found["prompts"] = {stem: ["a dog barks", 0] for stem in list(found["prompts"])[:3]}
        index.write_text(json.dumps(found))
    names = [file.name for file in plot_training(model, tmp_path / "plots")]
    assert names == ["losses.png", "scores.png", "samples.png"]


def test_a_stop_on_the_way_is_no_reason_to_score(scored, go, clips, tmp_path):
    folder = Path(
        shutil.copytree(scored, tmp_path / "m", ignore=shutil.ignore_patterns("training"))
    )
    score = ScoreOptions(steps=3, data=clips, split="train", prompts=2)
    go("diffusion", folder, "diffusion.steps=4", data=clips, score=score, max_minutes=1e-9)
    assert read_log(run_folder(folder, "diffusion"), SCORES) == []


def test_a_score_is_announced_and_told(
    tiny_model, tiny_recipe, clips, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("diffusion"))
    line = ["--recipe", str(tiny_recipe), "--data", str(clips), "--out", str(folder)]
    score = ["--score-steps", "5", "--score-data", str(clips), "--score-split", "train"]
    few = ["--score-prompts", "2", "--set", "diffusion.steps=1", "--device", "cpu"]

    def lines(*more: str) -> list[str]:
        command = ["soundcrafter", "train", "diffusion", *line, *score, *few, *more]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        return list(capsys.readouterr().out.splitlines())

    entry, before, after, _ = lines()
    assert entry.startswith("diffusion 1/1  denoising")
    assert before == "diffusion 1  scoring sounds for 2 prompts ..."
    assert after.startswith("diffusion 1  scores: fd ")
    shutil.rmtree(run_folder(folder, "diffusion"))
    entry, before, after = map(json.loads, lines("--json"))
    assert before == {"step": 1, "scoring": 2}
    (found,) = read_log(run_folder(folder, "diffusion"), SCORES)
    assert after["step"] == 1
    assert after["scores"].items() <= found.items()


def test_a_signal_does_not_wait_for_a_score_and_a_resume_makes_it(scored, go, clips, tmp_path):
    folder = Path(
        shutil.copytree(scored, tmp_path / "m", ignore=shutil.ignore_patterns("diffusion"))
    )
    score = ScoreOptions(steps=2, data=clips, split="train", prompts=4)
    told = []

    def interrupt(entry):
        told.append(entry)
        if "scoring" in entry:  # from another thread, while sounds are generated
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="interrupted at step 2"):
        go("diffusion", folder, "diffusion.steps=3", data=clips, score=score, report=interrupt)
    assert signal.getsignal(signal.SIGINT) == handler
    place = run_folder(folder, "diffusion")
    assert told[-1] == {"step": 2, "scoring": 4}
    assert read_log(place, SCORES) == []
    assert [path.name for path in list_checkpoints(place)] == ["step-00000002"]
    rest = go("diffusion", folder, "diffusion.steps=3", data=clips, score=score)
    assert [entry["step"] for entry in rest if "scoring" in entry] == [2, 3]
    assert [entry["step"] for entry in read_log(place, SCORES)] == [2, 3]
    again = go("diffusion", folder, "diffusion.steps=3", data=clips, score=score)
    assert again == []


def test_pictures_mark_the_phases(scored, tmp_path):
    entries = read_log(run_folder(scored, "diffusion"))
    assert phase_borders(entries) == [2]
    plain = Path(shutil.copytree(scored, tmp_path / "plain"))
    bare = [{k: v for k, v in entry.items() if k != "phase"} for entry in entries]
    log = run_folder(plain, "diffusion") / "log.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in bare))
    for model, out in ((scored, "marked"), (plain, "bare")):
        plot_training(model, tmp_path / out)
    for name in ("losses.png", "scores.png"):
        marked, unmarked = (image.imread(tmp_path / out / name) for out in ("marked", "bare"))
        assert marked.shape == unmarked.shape
        columns = (marked != unmarked).any(-1).sum(0)
        assert columns.max() > 0.3 * len(marked)  # a vertical line, dashed
