"""Full disks and too little memory: one line that names what the user knows."""

import sys

import pytest
from safetensors import SafetensorError

from soundcrafter import cli, store
from soundcrafter.files import append_json_line
from soundcrafter.train import RunOptions, checkpoint
from soundcrafter.train.vae import VAELoss


@pytest.mark.parametrize(
    "override",
    [
        "vae.seconds=1e9",
        "clap.batch_size=1000000000",
        "vocoder.seconds=601",
        "vae.scale_batches=1000000000",
        "diffusion.curriculum=[{share=0.5, seconds=1e9},{share=0.5, seconds=0.64}]",
        "diffusion.curriculum=[{share=1, seconds=0.64, batch_size=1000000}]",
    ],
)
def test_settings_that_no_memory_could_hold_are_refused(override, make_recipe):
    with pytest.raises(ValueError, match=r"(seconds|batch_size|scale_batches): got .*up to \d+"):
        make_recipe(override)


def test_threads_have_a_limit():
    with pytest.raises(ValueError, match="workers: got 1000000; allowed: up to 256"):
        RunOptions(workers=1_000_000)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 9.00 GiB"),
    ],
    ids=["numpy", "cpu", "cuda"],
)
def test_no_memory_left_says_what_to_lower(
    error, tiny_recipe, clips, tmp_path, monkeypatch, capsys
):
    def fail(*args):
        raise error

    monkeypatch.setattr(VAELoss, "forward", fail)
    where = ["--recipe", str(tiny_recipe), "--data", str(clips), "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", ["soundcrafter", "train", "vae", *where, "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "vae: out of memory; lower vae.batch_size or vae.seconds" in line


def test_other_errors_stay_what_they_are(go, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(VAELoss, "forward", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        go("vae", tmp_path)


FULL = """
import resource, sys, torch
from pathlib import Path
from soundcrafter.train.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(Path(sys.argv[1]), 2, {"weights": {"a": torch.zeros(100_000)}}, {}, keep=1)
except ValueError as error:
    Path(sys.argv[1], "said").write_text(str(error))
"""


def test_a_full_disk_names_the_checkpoint_that_was_to_be(fork, tmp_path):
    """The largest size of a file stands in for the disk's."""
    fork(FULL, [str(tmp_path)]).join(60)
    said = (tmp_path / "said").read_text()
    assert f"{tmp_path}/checkpoints/step-00000002/weights.safetensors: cannot write" in said
    assert ".tmp" not in said


def test_every_file_of_a_training_goes_by_its_own_name(go, tmp_path, monkeypatch):
    def full(*args):
        raise SafetensorError("No space left on device")

    def no_state(path, data):
        raise ValueError(f"{path}: cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", full)
        with pytest.raises(ValueError, match=rf"^{tmp_path}/1/vae\.safetensors: cannot write: No"):
            go("vae", tmp_path / "1", "vae.steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", no_state)
        name = (
            rf"^{tmp_path}/2/training/vae/checkpoints/step-00000001/state\.json: cannot write: No"
        )
        with pytest.raises(ValueError, match=name):
            go("vae", tmp_path / "2", "vae.steps=1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: cannot write: Is a directory"):
        append_json_line(tmp_path / "folder", {})
