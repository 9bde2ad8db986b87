"""Training from shards: the losses of the manifest, kills, truncated shards, two processes."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from soundcrafter.audio import read_audio
from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.shard_writer import write_shards
from soundcrafter.store import open_folder
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.log import MACHINE_FACTS, read_log

STEPS, HOLD, FAILED = 6, 3, 100
SETTINGS = (
    "data.balance=none",  # every recording once an epoch: 3 steps of 2 for the 6 clips
    "vae.batch_size=2",
    f"vae.steps={STEPS}",
    "vae.adversarial_start=99",
    "vae.scale_batches=1",
)

# Notes the files that this process trains on in each step; waits in step `hold`.
TRAIN = """
import json, os, sys, time
from soundcrafter.train import RunOptions, loop, read_recipe, train

recipe, data, out, settings, notes, hold = sys.argv[1:]
train_step = loop.train_step

def noted(stage, engine, ema, loaded, step):
    with open(notes + os.environ.get("RANK", "0"), "a") as stream:
        files = [file for batch in loaded for sample in batch["files"] for file in sample]
        print(json.dumps([step, files]), file=stream)
    return train_step(stage, engine, ema, loaded, step)

def report(entry):
    if hold == str(entry["step"]):
        time.sleep(600)

loop.train_step = noted
options = RunOptions(device="cpu", log_steps=1, checkpoint_steps=2)
train("vae", read_recipe(recipe, settings.split(";")), data=data, out=out, options=options,
      report=report)
"""


def arguments_of(recipe, data, out: Path, hold: int = 0) -> list[str]:
    notes = out.with_name(f"{out.name}-notes")
    return [*map(str, (recipe, data, out)), ";".join(SETTINGS), str(notes), str(hold)]


def draws_of(out: Path, rank: int = 0) -> list[tuple[int, list[str]]]:
    """The step and files of each training step, as TRAIN noted them."""
    lines = out.with_name(f"{out.name}-notes{rank}").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_equal_losses(found, expected, tolerance=1e-6):
    assert len(expected) == STEPS
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for key in set(one) - set(MACHINE_FACTS):
            assert one[key] == pytest.approx(other[key], rel=tolerance), (one["step"], key)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, clips) -> str:
    """The clips in three shards. Read only."""
    folder = tmp_path_factory.mktemp("shards")
    assert len(write_shards(clips, folder, shard_mib=0.06)[0]) == 3
    return str(folder / "{000000..000002}.tar")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, go, clips) -> Path:
    """A run on the manifest, without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "m"
    go("vae", out, *SETTINGS, data=clips)
    return out


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return open_folder(out).load("vae").state_dict()


def test_shards_train_as_their_manifest_even_if_killed_in_a_shard(
    fork, whole, shards, tiny_recipe, tmp_path
):
    out = tmp_path / "m"
    place = run_folder(out, "vae")
    process = fork(TRAIN, arguments_of(tiny_recipe, shards, out, HOLD))
    deadline = time.monotonic() + FAILED
    while not any(entry["step"] == HOLD for entry in read_log(place)):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process = fork(TRAIN, arguments_of(tiny_recipe, shards, out))
    process.join(FAILED)
    assert process.exitcode == 0
    assert_equal_losses(read_log(place), read_log(run_folder(whole, "vae")))
    wanted = weights_of(whole)
    for key, value in weights_of(out).items():
        assert torch.allclose(value, wanted[key], rtol=1e-6, atol=1e-7), key
    steps = [step for step, _ in draws_of(out)]
    assert steps == [0, 1, 2, 2, 3, 4, 5]  # resumed from the checkpoint after two steps


def test_two_processes_share_every_epoch(fork_two, whole, shards, tiny_recipe, tmp_path, clips):
    out = tmp_path / "m"
    processes = fork_two(TRAIN, arguments_of(tiny_recipe, shards, out))
    try:
        for process in processes:
            process.join(FAILED)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    files = {f"{r.file.stem}.ogg" for r in read_manifest(clips).recordings}
    both = [draws_of(out, rank) for rank in range(2)]
    for epoch in (range(3), range(3, 6)):
        seen = [[f for step, fs in draws if step in epoch for f in fs] for draws in both]
        assert [len(part) for part in seen] == [3, 3]
        assert {Path(file).name for part in seen for file in part} == files
    assert_equal_losses(read_log(run_folder(out, "vae")), read_log(run_folder(whole, "vae")), 2e-4)


REFUSED = """
import os, sys
from soundcrafter.train import RunOptions, read_recipe, train

recipe, out, *data = sys.argv[1:]
try:
    train("vae", read_recipe(recipe), data=data[int(os.environ["RANK"])], out=out,
          options=RunOptions(device="cpu"))
except ValueError as error:
    assert "vae: the processes have different data" in str(error), error
else:
    raise SystemExit("two processes trained on different data")
"""


def test_processes_with_different_shards_are_refused(fork_two, shards, tiny_recipe, tmp_path):
    fewer = shards.replace("000002", "000001")
    for process in fork_two(REFUSED, [*map(str, (tiny_recipe, tmp_path / "m")), shards, fewer]):
        process.join(FAILED)
        assert process.exitcode == 0


def test_a_truncated_shard_is_left_out_and_listed(shards, run, tiny_recipe, tmp_path, caplog):
    for file in Path(shards).parent.glob("*.tar"):
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: 20_000 if "1" in file.name else None])
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    out, data = tmp_path / "m", tmp_path / "{000000..000002}.tar"
    result = run(
        *("train", "vae", "--recipe", tiny_recipe, *settings, "--data", data, "--out", out),
        *("--device", "cpu", "--set", "vae.steps=2"),
    )
    assert result.code == 0, result.err
    assert "000001.tar: skipped: truncated" in caplog.text
    listed = run_folder(out, "vae") / "skipped.json"
    assert str(listed) in result.err
    assert list(json.loads(listed.read_text())) == ["000001.tar"]


def test_foreign_shards_train(go, clips, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset: pip install .[dev]")
    recordings = read_manifest(clips).recordings
    with webdataset.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=4, verbose=0) as writer:
        for recording in recordings:
            sound, key = {"ogg": recording.file.read_bytes()}, recording.file.stem
            writer.write({"__key__": key, **sound, "txt": recording.caption, "cls": len(key)})
    data = tmp_path / "{000..001}.tar"
    for one, other in zip(read_manifest(data).recordings, recordings, strict=True):
        assert len(read_audio(one.sound, 8000)) == len(read_audio(other.file, 8000))
    assert len(go("clap", tmp_path / "m", "clap.steps=2", data=data)) == 2
