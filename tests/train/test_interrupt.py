"""A training that was interrupted says so, and so does a stage that uses what it left."""

import logging
import shutil
import signal
import time
from pathlib import Path

import pytest

from soundcrafter import cli
from soundcrafter.train import build_stage
from soundcrafter.train.checkpoint import list_checkpoints, run_folder
from soundcrafter.train.encode import encode_data
from soundcrafter.train.log import read_log
from soundcrafter.train.sprint import sprint


def command(stage: str, recipe: Path, data: Path, out: Path, *more: str) -> list[str]:
    where = ["--recipe", str(recipe), "--data", str(data), "--out", str(out)]
    return ["train", stage, *where, "--device", "cpu", "--log-steps", "1", *more]


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_is_no_success(stop, code, launch, tiny_recipe, clips, tmp_path):
    out = tmp_path / "m"
    process = launch(*command("vae", tiny_recipe, clips, out, "--set", "vae.steps=100000"))
    deadline = time.monotonic() + 120
    while not read_log(run_folder(out, "vae")):
        assert process.poll() is None, process.errors()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(stop)
    ended, _, errors = process.finish()
    assert ended == code, errors
    (checkpoint,) = list_checkpoints(run_folder(out, "vae"))
    step = int(checkpoint.name[5:])
    last = errors.splitlines()[-1]
    assert last == f"interrupted at step {step}; run the same command to resume"


@pytest.fixture
def cut_vae(go, tiny_model, tmp_path) -> Path:
    """The tiny model without a U-Net; the training of its VAE ended after one step of six."""
    out = tmp_path / "model"
    go("vae", out, max_minutes=1e-9)
    go("clap", out)
    return out


def warnings(caplog) -> list[str]:
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    caplog.clear()
    return [line for line in lines if "--allow-unfinished" in line]


def test_stages_warn_of_unfinished_parts(
    cut_vae, tiny_recipe, make_recipe, clips, tmp_path, caplog, monkeypatch
):
    def run(*line: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["soundcrafter", *line])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        return warnings(caplog)

    diffusion = command("diffusion", tiny_recipe, clips, cut_vae, "--set", "diffusion.steps=1")
    assert run(*diffusion, "--allow-unfinished") == []
    shutil.rmtree(run_folder(cut_vae, "diffusion"))
    (warning,) = run(*diffusion)
    assert str(cut_vae) in warning
    assert "training of its vae ended at step 1 of 6" in warning
    assert "`soundcrafter train vae`" in warning
    vae = command("vae", tiny_recipe, clips, tmp_path / "other", "--init", str(cut_vae))
    assert len(run(*vae)) == 1  # an unfinished part to start from
    encode_data(make_recipe(), clips, cut_vae, tmp_path / "encoded", device="cpu")
    assert len(warnings(caplog)) == 1
    decoded = build_stage("vocoder", make_recipe("vocoder.decoded=0.5"), clips, cut_vae)
    sprint(decoded, tmp_path / "v", minutes=1e-9, device="cpu")
    assert len(warnings(caplog)) == 1
    sprint(decoded, tmp_path / "w", minutes=1e-9, device="cpu", allow_unfinished=True)
    assert warnings(caplog) == []


def test_finished_parts_and_parts_without_a_run_need_no_warning(
    go, trained_copy, model_copy, clips, caplog
):
    shutil.rmtree(run_folder(trained_copy, "diffusion"))
    go("diffusion", trained_copy, "diffusion.steps=1", init=None)
    go("diffusion", model_copy, "diffusion.steps=1")  # its parts came without their runs
    assert warnings(caplog) == []
