"""kill -9 in the middle of each stage, the same command again: losses as if nothing happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.store import open_folder
from soundcrafter.train import GENERATOR_STAGES, read_recipe
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.log import MACHINE_FACTS, read_log

STEPS, HOLD = 9, 5  # checkpoints are at even steps: a kill at 5 throws one step away
GAN_TERMS = {
    "vae": "adversarial",
    "vocoder": "features",
}  # logged in the GAN phase

# All four stages, one after the other. Each entry is printed once it is in the log. The process
# waits in step HOLD of the stage that the environment names, so that the kill finds it there.
TRAIN = """
import os, sys, time
from soundcrafter.train import GENERATOR_STAGES, RunOptions, read_recipe, train

recipe, data, out, steps, hold = sys.argv[1:]
changes = [f"{stage}.steps={steps}" for stage in GENERATOR_STAGES]
changes.append("diffusion.learning_rate=0.01")  # so that dropout shows: a U-Net starts from zero
settings = read_recipe(recipe, changes)
options = RunOptions(device="cpu", log_steps=1, checkpoint_steps=2)
for stage in GENERATOR_STAGES:
    def report(entry):
        print(stage, entry["step"], flush=True)
        if os.environ.get("HOLD_IN") == stage and entry["step"] == int(hold):
            time.sleep(600)
    train(stage, settings, data=data, out=out, options=options, report=report)
"""


def start(recipe: Path, data: Path, out: Path, hold_in: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TRAIN, str(recipe), str(data), str(out), str(STEPS), str(HOLD)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOLD_IN": hold_in}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def kill_in(process: subprocess.Popen[str], place: Path) -> str:
    """SIGKILL once the log holds step HOLD; returns what the process had printed."""
    deadline = time.monotonic() + 200
    while not any(entry["step"] >= HOLD for entry in read_log(place)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return printed


def finish(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_recipe, clips):
    """The folders of an uninterrupted run and a four times killed one, and what each start of the
    latter printed."""
    folder = tmp_path_factory.mktemp("kill")
    whole, killed = folder / "whole", folder / "killed"
    reference = start(tiny_recipe, clips, whole)
    printed = []
    for stage in GENERATOR_STAGES:
        process = start(tiny_recipe, clips, killed, hold_in=stage)
        printed.append(kill_in(process, run_folder(killed, stage)))
    printed.append(finish(start(tiny_recipe, clips, killed)))
    finish(reference)
    return whole, killed, [text.split("\n") for text in printed]


def steps_of(stage: str, lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith(f"{stage} ")]


@pytest.mark.parametrize("number", range(4), ids=GENERATOR_STAGES)
def test_a_killed_stage_resumes_with_equal_losses(number, runs, tiny_recipe):
    whole, killed, printed = runs
    stage = GENERATOR_STAGES[number]
    # the kill came when HOLD was in the log, perhaps before it was printed
    assert steps_of(stage, printed[number])[: HOLD - 1] == list(range(1, HOLD))
    assert steps_of(stage, printed[number + 1]) == list(range(HOLD, STEPS + 1))  # not from 1
    expected, found = (read_log(run_folder(folder, stage)) for folder in (whole, killed))
    assert [entry["step"] for entry in found] == list(range(1, STEPS + 1))
    assert len(expected) == STEPS
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for key in set(one) - set(MACHINE_FACTS):
            assert one[key] == pytest.approx(other[key], rel=1e-6), (one["step"], key)
    if stage in GAN_TERMS:  # the kill was in the middle of the GAN
        assert {GAN_TERMS[stage], "discriminator_loss"} <= set(found[HOLD - 1])
    assert read_recipe(tiny_recipe).model.unet.dropout > 0  # and dropout draws alike too


def test_the_killed_model_equals_the_other_one(runs):
    whole, killed, _ = runs
    one, other = open_folder(killed), open_folder(whole)
    assert set(one.parts) == set(other.parts) == set(GENERATOR_PARTS)
    for part in one.parts:
        wanted = other.load(part).state_dict()
        for key, value in one.load(part).state_dict().items():
            assert torch.allclose(value, wanted[key], rtol=1e-5, atol=1e-7), (part, key)


def test_a_kill_leaves_no_stray_checkpoint(runs):
    _, killed, _ = runs
    for stage in GENERATOR_STAGES:
        names = sorted(p.name for p in (run_folder(killed, stage) / "checkpoints").iterdir())
        assert names == [f"step-{step:08d}" for step in (STEPS - 1, STEPS)]
