"""kill -9 in the middle of each stage, the same command again: losses as if nothing happened."""

import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.store import open_folder
from soundcrafter.train import GENERATOR_STAGES, read_recipe
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.log import MACHINE_FACTS, read_log

STEPS, HOLD = 5, 3  # checkpoints are at even steps: a kill at 3 throws one step away
GAN_TERMS = {
    "vae": "adversarial",
    "vocoder": "features",
}  # logged in the GAN phase

# All four stages, one after the other. Each entry is noted in a file once it is in the log. The
# process waits in step HOLD of the stage that is named, so that the kill finds it there.
TRAIN = """
import sys, time
from soundcrafter.train import GENERATOR_STAGES, RunOptions, read_recipe, train

recipe, data, out, notes, steps, hold, hold_in = sys.argv[1:]
changes = [f"{stage}.steps={steps}" for stage in GENERATOR_STAGES]
changes += ["vae.adversarial_start=1", "vocoder.adversarial_start=1"]  # before the checkpoint
changes.append("diffusion.learning_rate=0.01")  # so that dropout shows: a U-Net starts from zero
settings = read_recipe(recipe, changes)
options = RunOptions(device="cpu", log_steps=1, checkpoint_steps=2)
for stage in GENERATOR_STAGES:
    def report(entry):
        with open(notes, "a") as stream:
            print(stage, entry["step"], file=stream)
        if hold_in == stage and entry["step"] == int(hold):
            time.sleep(600)
    train(stage, settings, data=data, out=out, options=options, report=report)
"""


def kill_in(process: BaseProcess, place: Path) -> None:
    """SIGKILL once the log holds step HOLD."""
    deadline = time.monotonic() + 200
    while not any(entry["step"] >= HOLD for entry in read_log(place)):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def finish(process: BaseProcess) -> None:
    process.join(250)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory, fork, tiny_recipe, clips):
    """The folders of an uninterrupted run and a four times killed one, and the lines that each
    start of the latter noted."""
    folder = tmp_path_factory.mktemp("kill")
    whole, killed = folder / "whole", folder / "killed"

    def start(out: Path, notes: str, hold_in: str = "") -> BaseProcess:
        places = map(str, (tiny_recipe, clips, out, folder / notes))
        return fork(TRAIN, [*places, str(STEPS), str(HOLD), hold_in])

    reference = start(whole, "whole.txt")
    for stage in GENERATOR_STAGES:
        kill_in(start(killed, f"{stage}.txt", hold_in=stage), run_folder(killed, stage))
    finish(start(killed, "last.txt"))
    finish(reference)
    notes = [(folder / f"{name}.txt").read_text() for name in (*GENERATOR_STAGES, "last")]
    return whole, killed, [text.splitlines() for text in notes]


def steps_of(stage: str, lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith(f"{stage} ")]


@pytest.mark.parametrize("number", range(4), ids=GENERATOR_STAGES)
def test_a_killed_stage_resumes_with_equal_losses(number, runs, tiny_recipe):
    whole, killed, noted = runs
    stage = GENERATOR_STAGES[number]
    # the kill came when HOLD was in the log, perhaps before it was noted
    assert steps_of(stage, noted[number])[: HOLD - 1] == list(range(1, HOLD))
    assert steps_of(stage, noted[number + 1]) == list(range(HOLD, STEPS + 1))  # not from 1
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
