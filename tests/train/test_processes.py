"""Two processes on one machine: the losses of one, a common end, and what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from soundcrafter.store import open_folder
from soundcrafter.train import GENERATOR_STAGES
from soundcrafter.train.checkpoint import list_checkpoints, run_folder
from soundcrafter.train.log import MACHINE_FACTS, read_log

pytestmark = pytest.mark.long

STEPS = 4
# dropout draws from each process's own generator; everything else is a function of the index
SETTINGS = (
    "model.unet.dropout=0",
    *(  # FSDP takes time for each of its tensors, however small
        f"model.unet.{setting}"
        for setting in (
            *("multipliers=[1,2]", "strides=[[1,1],[2,2]]", "attention=[false,true]"),
            "heads=[2,2]",
        )
    ),
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
FAILED = 200  # seconds after which a process will not end any more

# Stages one after the other.
TRAIN = """
import json, sys, time
from soundcrafter.train import RunOptions, read_recipe, sharding, train

recipe, data, out, settings, stages, hold, options = sys.argv[1:]
sharding.LARGE = 500  # at width 8 no block is
options = RunOptions(device="cpu", log_steps=1, checkpoint_steps=2, **json.loads(options))
for stage in stages.split(","):
    def report(entry):
        if hold == str(entry["step"]):
            time.sleep(600)
    train(stage, read_recipe(recipe, settings.split(";")), data=data, out=out, options=options,
          report=report)
"""


def arguments_of(recipe, data, out, stages, hold=0, **options) -> list[str]:
    """The arguments of TRAIN."""
    places = map(str, (recipe, data, out))
    return [*places, ";".join(SETTINGS), ",".join(stages), str(hold), json.dumps(options)]


def finish(processes: list[BaseProcess]) -> None:
    try:
        for process in processes:
            process.join(FAILED)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
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
def both(tmp_path_factory, fork_two, go, tiny_recipe, clips):
    """The same four stages in one process and in two, with the same batches."""
    folder = tmp_path_factory.mktemp("processes")
    processes = fork_two(TRAIN, arguments_of(tiny_recipe, clips, folder / "two", GENERATOR_STAGES))
    for stage in GENERATOR_STAGES:
        alone(go, folder / "one", stage, clips)
    finish(processes)
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


def test_shared_out_weights_learn_and_resume_the_same(fork_two, both, tiny_recipe, clips, tmp_path):
    whole, _ = both
    stage, out = "diffusion", tmp_path / "sharded"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("training"))
    for more in ({"max_minutes": 1e-9}, {}):
        finish(fork_two(TRAIN, arguments_of(tiny_recipe, clips, out, [stage], fsdp=True, **more)))
    found = read_log(run_folder(out, stage))
    assert_equal_losses(found, read_log(run_folder(whole, stage)))
    wanted = open_folder(whole).load("unet").state_dict()
    for key, value in open_folder(out).load("unet").state_dict().items():
        assert float((value - wanted[key]).abs().max()) < 2e-2, key


@pytest.mark.parametrize("stage", ["vae", "clap"])
def test_only_the_unet_is_shared_out(stage, go, tmp_path):
    with pytest.raises(
        ValueError, match=f"fsdp: supported only when training the U-Net, not {stage}"
    ):
        go(stage, tmp_path / "m", fsdp=True)
    assert not (tmp_path / "m").exists()


def test_a_killed_process_leaves_a_checkpoint_that_resumes(
    fork_two, both, go, tiny_recipe, clips, tmp_path
):
    """First the one that writes is killed, then the other one of torchrun's."""
    whole, _ = both
    stage, out = "vae", tmp_path / "cut"
    place = run_folder(out, stage)
    arguments = arguments_of(tiny_recipe, clips, out, [stage], hold=3)

    processes = fork_two(TRAIN, arguments)
    wait_for_step(3, place, lambda: all(process.is_alive() for process in processes))
    processes[0].kill()
    processes[1].join(FAILED)
    assert processes[1].exitcode > 0  # it does not wait for the other
    assert [path.name for path in list_checkpoints(place)] == ["step-00000002"]

    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
    command += ["--standalone", str(script), *arguments_of(tiny_recipe, clips, out, [stage], 4)]
    torchrun = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_step(4, place, lambda: torchrun.poll() is None)
    os.kill(children(torchrun.pid)[1], signal.SIGKILL)
    torchrun.communicate(timeout=FAILED)
    assert torchrun.returncode != 0  # the survivor was ended by torchrun
    assert [path.name for path in list_checkpoints(place)] == ["step-00000002"]

    alone(go, out, stage, clips)  # as many processes as one likes
    assert_equal_losses(read_log(place), read_log(run_folder(whole, stage)))


def wait_for_step(step: int, place: Path, alive: Callable[[], bool]) -> None:
    """Wait until a step is in the log."""
    deadline = time.monotonic() + FAILED
    while not any(entry["step"] == step for entry in read_log(place)):
        assert alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    assert "tagger: got 2 processes; must run in one process" in str(error)
else:
    raise SystemExit("the tagger trained in two processes")
"""


def test_two_processes_stop_together_and_refuse_what_is_for_one(
    fork_two, tiny_recipe, clips, tmp_path
):
    finish(fork_two(STOP, [str(tiny_recipe), str(clips), str(tmp_path / "m")]))
    names = [path.name for path in list_checkpoints(run_folder(tmp_path / "m", "vae"))]
    assert names == ["step-00000001"]
