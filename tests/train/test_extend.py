"""More steps for a run that is there, and what stages say of what they lack."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

from soundcrafter import cli
from soundcrafter.train import build_stage, read_recipe
from soundcrafter.train.checkpoint import list_checkpoints, run_folder
from soundcrafter.train.curriculum import Curriculum, PhaseConfig
from soundcrafter.train.encode import encode_data
from soundcrafter.train.log import read_log
from soundcrafter.train.schedule import learning_rate


@pytest.mark.parametrize("done", ["finished", "running"])
@pytest.mark.parametrize("stage", ["vae", "clap"])
def test_a_run_is_extended_by_more_steps(stage, done, go, make_recipe, tmp_path):
    minutes = None if done == "finished" else 1e-9
    before = go(stage, tmp_path, f"{stage}.steps=2", max_minutes=minutes)
    rest = go(stage, tmp_path, f"{stage}.steps=4")
    steps = [entry["step"] for entry in (*before, *rest)]
    assert steps == [1, 2, 3, 4]
    config = getattr(make_recipe(f"{stage}.steps=4"), stage)
    for entry in rest:
        assert entry["learning_rate"] == learning_rate(entry["step"] - 1, config)
    assert [e["step"] for e in read_log(run_folder(tmp_path, stage))] == [1, 2, 3, 4]
    with pytest.raises(
        ValueError, match=rf"{stage}\.steps is 4 in that run, 3 now\); a run can be exten"
    ):
        go(stage, tmp_path, f"{stage}.steps=3")


def test_a_constant_schedule_is_extended_without_a_trace(go, tmp_path):
    constant = "vae.schedule=constant"
    straight = go("vae", tmp_path / "straight", "vae.steps=6", constant)
    go("vae", tmp_path / "extended", "vae.steps=3", constant)
    rest = go("vae", tmp_path / "extended", "vae.steps=6", constant)
    assert [entry["loss"] for entry in rest] == pytest.approx(
        [entry["loss"] for entry in straight[3:]], rel=1e-5
    )
    last = go("vae", tmp_path / "extended", "vae.steps=8", constant, "vae.decay=0.25")
    assert last[0]["learning_rate"] == straight[0]["learning_rate"]  # the last of constant rate
    assert last[1]["learning_rate"] == pytest.approx((1 - 0.5**0.5) * straight[0]["learning_rate"])


def test_a_curriculum_is_not_extended(go, trained_copy):
    shutil.rmtree(run_folder(trained_copy, "diffusion"))
    phases = "diffusion.curriculum=[{share=0.5, seconds=0.32},{share=0.5, seconds=0.64}]"
    go("diffusion", trained_copy, "diffusion.steps=2", phases, max_minutes=1e-9)
    with pytest.raises(
        ValueError, match=r"diffusion\.steps is 2 in that run, 4 now\); curriculum phases"
    ):
        go("diffusion", trained_copy, "diffusion.steps=4", phases)


def test_what_depends_on_a_part_keeps_its_training_from_going_on(go, trained_copy):
    with pytest.raises(ValueError, match="would invalidate unet"):
        go("vae", trained_copy, "vae.steps=9")


@pytest.mark.parametrize(
    ("stage", "override", "named"),
    [
        ("clap", "model.clap_audio.mel_std=2.0", "model.clap_audio.mel_std"),
        ("vocoder", "model.vocoder.mel_std=2.0", "model.vocoder.mel_std"),
        ("diffusion", "model.unet.dropout=0.5", "model.unet.dropout"),
        ("diffusion", "data.gain_db=3.0", "data.gain_db"),
        ("diffusion", "diffusion.seed=9", "diffusion.seed"),
    ],
)
def test_settings_are_named_as_one_types_them(stage, override, named, go, trained_copy):
    with pytest.raises(
        ValueError, match=rf"different settings \({named} is .* in that run, .* now\)"
    ):
        go(stage, trained_copy, override)


def error_of(monkeypatch, capsys, *line: str) -> str:
    monkeypatch.setattr(sys, "argv", ["soundcrafter", *line])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    return str(error)


def test_a_stage_says_which_stages_come_first(
    tiny_recipe, go, clips, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "m"
    line = ["--recipe", str(tiny_recipe), "--data", str(clips), "--out", str(out)]
    error = error_of(monkeypatch, capsys, "train", "diffusion", *line)
    assert f"{out}: this model has no vae, clap_audio, clap_text yet" in error
    assert error.endswith("run `soundcrafter train vae` and `soundcrafter train clap`")
    assert not out.exists()
    decoded = [*line, "--set", "vocoder.decoded=0.5"]
    error = error_of(monkeypatch, capsys, "train", "vocoder", *decoded)
    assert error.endswith("first run `soundcrafter train vae`")
    frozen = [*line, "--set", "clap.train_text=false"]
    error = error_of(monkeypatch, capsys, "train", "clap", *frozen)
    assert error.endswith("first run `soundcrafter train text`")
    go("vae", out, "vae.steps=1")
    error = error_of(monkeypatch, capsys, "train", "diffusion", *line)
    assert "has no clap_audio, clap_text yet (it has: vae)" in error
    assert error.endswith("first run `soundcrafter train clap`")


def test_parts_of_other_settings_are_listed(tiny_model, clips, make_recipe):
    overrides = ("clap.train_text=false", "model.clap_text.width=32")
    with pytest.raises(ValueError, match=r"model\.clap_text\.width is 16 there, 32 here"):
        build_stage("clap", make_recipe(*overrides), clips, tiny_model)


@pytest.mark.parametrize("shares", [(0.2, 0.3, 0.5), (0.1, 0.1, 0.8), (0.9, 0.05, 0.05), (1e-4, 1)])
def test_a_curriculum_says_how_many_steps_it_needs(shares):
    last = 1 - sum(shares[:-1])
    phases = [PhaseConfig(share=share, seconds=1.0) for share in (*shares[:-1], last)]

    def make(steps: int) -> Curriculum:
        return Curriculum(phases, steps=steps, batch_size=1, seconds=1.0)

    with pytest.raises(ValueError, match=r"diffusion\.steps to at least \d+") as caught:
        make(1)
    needed = int(str(caught.value).rpartition(" ")[2])
    assert len(make(needed).phases) == len(phases)
    with pytest.raises(ValueError, match="at least"):
        make(needed - 1)


def test_a_recipe_names_the_steps_that_its_curriculum_needs():
    with pytest.raises(ValueError, match=r"has no step of 2; .*diffusion\.steps to at least 3"):
        read_recipe("paper", ["diffusion.steps=2"])
    assert len(read_recipe("paper", ["diffusion.steps=3"]).diffusion.phases().phases) == 3


def test_an_unfinished_encoding_says_what_to_do(make_recipe, clips, tiny_model, tmp_path):
    phases = "diffusion.curriculum=[{share=0.5, seconds=0.32},{share=0.5, seconds=0.64}]"
    recipe = make_recipe(phases)
    encode_data(recipe, clips, tiny_model, tmp_path / "whole", device="cpu")
    cut = Path(shutil.copytree(tmp_path / "whole", tmp_path / "cut"))
    (cut / "index.json").unlink()  # as a kill leaves it in the last phase, and before it
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"the encoding was interrupted; run the same `soundcrafter data enc"
        ):
            build_stage("diffusion", recipe, cut, tiny_model)
        (cut / "latents-00000.safetensors").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "whole" / "phase-1")
    with pytest.raises(
        ValueError, match="has no phase-1: it was encoded without the recipe's curr"
    ):
        build_stage("diffusion", recipe, tmp_path / "whole", tiny_model)
    plain = dataclasses.replace(recipe, diffusion=make_recipe().diffusion)
    build_stage("diffusion", plain, tmp_path / "whole", tiny_model)
    assert list_checkpoints(tmp_path) == []
