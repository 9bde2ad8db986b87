"""Two processes on one machine: the losses of one, a common end, and what a kill leaves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soundcrafter.store import open_folder
from soundcrafter.train import GENERATOR_STAGES
from soundcrafter.train.checkpoint import list_checkpoints, run_folder
from soundcrafter.train.log import MACHINE_FACTS, read_log

STEPS = 4
# dropout draws from each process's own generator; everything else is a function of the index
SETTINGS = (
    "model.unet.dropout=0",
    *(f"{stage}.steps={STEPS}" for stage in GENERATOR_STAGES),
    *(f"{stage}.adversarial_start=1" for stage in ("vae", "vocoder")),
    "diffusion.learning_rate=0.01",  # a U-Net starts from zero: its input must matter soon
    "vae.scale_batches=1",
    "model.clap_audio.tower=htsat",  # the paper's tower, small; its BatchNorm would see its share
    "clap.freeze_norm=true",
    "clap.checkpointing=true",
    *(
        f"model.clap_audio.{setting}"
        for setting in (
            *("depths=[2,2,2,2]", "heads=[1,2,2,4]", "spec_size=64", "window=2"),
            *("mel.num_mels=32", "max_seconds=1.0"),
        )
    ),
)
TORCHRUN = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]

# Stages one after the other, each process printing nothing but what went wrong.
TRAIN = """
import json, os, sys, time
from soundcrafter.train import RunOptions, read_recipe, sharding, train

recipe, data, out, settings, stages = sys.argv[1:6]
sharding.LARGE = 500  # at width 8 no block is
more = json.loads(os.environ.get("OPTIONS", "{}"))
options = RunOptions(device="cpu", log_steps=1, checkpoint_steps=2, **more)
for stage in stages.split(","):
    def report(entry):
        if os.environ.get("HOLD") == str(entry["step"]):
            time.sleep(600)
    train(stage, read_recipe(recipe, settings.split(";")), data=data, out=out, options=options,
          report=report)
"""


def torchrun(folder: Path, recipe: Path, data: Path, stages, settings, **environment):
    script = folder.with_suffix(".py")
    script.write_text(TRAIN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*TORCHRUN, "--master_port", str(port), str(script), str(recipe), str(data)]
    return subprocess.Popen(
        [*command, str(folder), ";".join(settings), ",".join(stages)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    try:
        printed, _ = process.communicate(timeout=250)
        assert process.returncode == 0, printed
    finally:
        process.kill()


def alone(go, folder: Path, stage: str, data: Path) -> list[dict]:
    return go(stage, folder, *SETTINGS, data=data)


def assert_equal_losses(found, expected, tolerance=2e-4):
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for key in set(one) - set(MACHINE_FACTS):
            assert one[key] == pytest.approx(other[key], rel=tolerance), (one["step"], key)


@pytest.fixture(scope="module")
def both(tmp_path_factory, go, tiny_recipe, clips):
    """The same four stages in one process and in two, with the same batches."""
    folder = tmp_path_factory.mktemp("processes")
    process = torchrun(folder / "two", tiny_recipe, clips, GENERATOR_STAGES, SETTINGS)
    for stage in GENERATOR_STAGES:
        alone(go, folder / "one", stage, clips)
    finish(process)
    return folder / "one", folder / "two"


@pytest.mark.parametrize("stage", GENERATOR_STAGES)
def test_two_processes_have_the_losses_of_one(stage, both):
    one, two = (read_log(run_folder(folder, stage)) for folder in both)
    assert len(one) == STEPS
    assert len({entry["loss"] for entry in one}) == STEPS
    assert_equal_losses(two, one)


def test_two_processes_make_the_model_of_one(both):
    one, two = (open_folder(folder) for folder in both)
    for part in one.parts:
        wanted = one.load(part).state_dict()
        for key, value in two.load(part).state_dict().items():
            # AdamW's first steps take the sign of a gradient, however near to zero it is
            assert float((value - wanted[key]).abs().max()) < 2e-2, (part, key)


def test_shared_out_weights_learn_and_resume_the_same(both, tiny_recipe, clips, tmp_path):
    whole, _ = both
    stage, out = "diffusion", tmp_path / "sharded"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("training"))
    for options in ('{"fsdp": true, "max_minutes": 1e-9}', '{"fsdp": true}'):
        finish(torchrun(out, tiny_recipe, clips, [stage], SETTINGS, OPTIONS=options))
    found = read_log(run_folder(out, stage))
    assert_equal_losses(found, read_log(run_folder(whole, stage)))
    wanted = open_folder(whole).load("unet").state_dict()
    for key, value in open_folder(out).load("unet").state_dict().items():
        assert float((value - wanted[key]).abs().max()) < 2e-2, key


@pytest.mark.parametrize("stage", ["vae", "clap"])
def test_only_the_unet_is_shared_out(stage, tiny_recipe, clips, tmp_path):
    process = torchrun(
        tmp_path / "m", tiny_recipe, clips, [stage], SETTINGS, OPTIONS='{"fsdp": true}'
    )
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "fsdp: only when training the U-Net" in printed


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_leaves_a_checkpoint_that_resumes(
    victim, both, go, tiny_recipe, clips, tmp_path
):
    whole, _ = both
    stage, out = "vae", tmp_path / "cut"
    process = torchrun(out, tiny_recipe, clips, [stage], SETTINGS, HOLD="3")
    place = run_folder(out, stage)
    deadline = time.monotonic() + 200
    while not any(entry["step"] == 3 for entry in read_log(place)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(children(process.pid)[victim], signal.SIGKILL)
    process.communicate(timeout=200)
    assert process.returncode != 0  # the survivor was ended by torchrun
    assert [path.name for path in list_checkpoints(place)] == ["step-00000002"]
    alone(go, out, stage, clips)  # as many processes as one likes
    assert_equal_losses(read_log(place), read_log(run_folder(whole, stage)))


def children(pid: int) -> list[int]:
    """The processes that a process started, by rank."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks = {}
    for child in map(int, found):
        for pair in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if pair.startswith(b"LOCAL_RANK="):
                ranks[int(pair.partition(b"=")[2])] = child
    return [ranks[rank] for rank in sorted(ranks)]


STOP = """
import os, sys
from soundcrafter.train import RunOptions, read_recipe, train

recipe, data, out = sys.argv[1:]
hurried = os.environ["RANK"] == "1"  # only one process thinks that the time is over
options = RunOptions(device="cpu", max_minutes=1e-9 if hurried else None)
changes = ["vae.steps=50", "vae.adversarial_start=0", "tagger.network.classes=['bell','other']"]
settings = read_recipe(recipe, changes)
assert train("vae", settings, data=data, out=out, options=options) == 1
try:
    train("tagger", settings, data=data, out=out, options=options)
except ValueError as error:
    assert "tagger: got 2 processes; allowed: one" in str(error)
else:
    raise SystemExit("the tagger trained in two processes")
"""


def test_two_processes_stop_together_and_refuse_what_is_for_one(tiny_recipe, clips, tmp_path):
    script = tmp_path / "stop.py"
    script.write_text(STOP)
    command = [*TORCHRUN, "--standalone", str(script), str(tiny_recipe), str(clips)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "m")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [path.name for path in list_checkpoints(run_folder(tmp_path / "m", "vae"))]
    assert names == ["step-00000001"]
