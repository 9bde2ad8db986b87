"""Two commands in one folder: the second ends at once, naming the first."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from soundcrafter import cli
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.files import locked
from soundcrafter.store import open_folder
from soundcrafter.train.checkpoint import list_checkpoints, run_folder, save_checkpoint
from soundcrafter.train.log import read_log


def run(monkeypatch, capsys, *line: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["soundcrafter", *line])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


def test_a_second_training_in_one_folder_is_refused_until_the_first_is_killed(
    launch, tiny_recipe, clips, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "m"
    line = ["--recipe", str(tiny_recipe), "--data", str(clips), "--out", str(out)]
    line = ["train", "vae", *line, "--device", "cpu", "--log-steps", "1"]
    first = launch(*line, "--set", "vae.steps=100000")
    deadline = time.monotonic() + 120
    while not read_log(run_folder(out, "vae")):
        assert first.poll() is None, first.errors()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    code, errors = run(monkeypatch, capsys, *line)
    assert code == 2
    (error,) = errors.splitlines()
    assert f"process {first.pid} (since 20" in error
    first.kill()
    assert run(monkeypatch, capsys, *line)[0] == 0  # the lock went with its process
    assert not list(out.rglob(".lock"))


def test_stages_of_one_folder_may_be_trained_at_once(go, tmp_path):
    """Each has a run of its own, and no export loses the part of another."""
    with locked(run_folder(tmp_path, "vae")):
        go("vocoder", tmp_path, "vocoder.steps=1")
        with pytest.raises(ValueError, match=f"training/vae: process {os.getpid()}"):
            go("vae", tmp_path)
    waiting = threading.Thread(target=go, args=("vae", tmp_path, "vae.steps=1"))
    with locked(tmp_path):
        waiting.start()
        waiting.join(timeout=3)
        assert waiting.is_alive()
        assert set(open_folder(tmp_path).parts) == {"vocoder"}
    waiting.join()
    assert set(open_folder(tmp_path).parts) == {"vocoder", "vae"}


def test_other_commands_hold_their_folders_too(
    tiny_recipe, tiny_model, clips, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(TaggerEmbedder, "bundled", None)  # refused before anything is loaded
    out, recipe = tmp_path / "out", ["--recipe", str(tiny_recipe)]
    data = ["--data", str(clips), "--out", str(out)]
    lines = [
        ["data", "encode", *recipe, "--model", str(tiny_model), *data],
        ["evaluate", "captions", str(tiny_model), *data],
        ["evaluate", "chain", str(tiny_model), *data],
        ["evaluate", "retrieval", str(tiny_model), *data],
        ["evaluate", "folders", str(clips / "audio"), *data],
    ]
    with locked(out):
        for line in lines:
            code, errors = run(monkeypatch, capsys, *line)
            assert code == 2
            assert f"error: {out}: process {os.getpid()} (since" in errors, line
    sprint = ["sprint", "vae", *recipe, "--minutes", "1", *data]
    with locked(run_folder(out, "vae")):
        code, errors = run(monkeypatch, capsys, *sprint)
        assert code == 2
        assert f"vae: process {os.getpid()} (since" in errors


SAVE = """
import sys, time
from pathlib import Path
from soundcrafter.train import checkpoint

def hang(*args):
    Path(sys.argv[1], "saving").touch()
    time.sleep(60)

checkpoint.write_json = hang
checkpoint.save_checkpoint(Path(sys.argv[1]), 4, {}, {}, keep=2)
"""


def test_a_checkpoint_that_is_being_written_is_left_alone(fork, tmp_path: Path):
    tensors = {"weights": {"a": torch.ones(2)}}
    process = fork(SAVE, [str(tmp_path)])
    while not (tmp_path / "saving").exists():
        assert process.is_alive()
        time.sleep(0.02)
    save_checkpoint(tmp_path, 4, tensors, {}, keep=2)  # of the same step, even
    assert len(list((tmp_path / "checkpoints").glob(".step-*.tmp"))) == 1
    process.kill()
    process.join()
    save_checkpoint(tmp_path, 6, tensors, {}, keep=2)  # once it is dead, it is cleared away
    assert sorted((tmp_path / "checkpoints").iterdir()) == list_checkpoints(tmp_path)
