"""The curriculum: phases, shapes and learning rate at their borders; resume inside any phase."""

import dataclasses
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.data.latents import Latents
from soundcrafter.files import read_json, write_json
from soundcrafter.train import build_stage, read_recipe
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.curriculum import Curriculum, PhaseConfig
from soundcrafter.train.encode import encode_data
from soundcrafter.train.log import read_log
from soundcrafter.train.recipe import DiffusionStageConfig
from soundcrafter.train.schedule import learning_rate

# 6 steps: 0-1, 2-3, 4-5
V1 = "{share=0.4, seconds=0.16, pool=4},{share=0.3, seconds=0.32, pool=2},{share=0.3, seconds=0.64}"
V2 = (
    "{share=0.4, seconds=0.32, pool=2, grid='pooled'},"
    "{share=0.3, seconds=0.64, pool=2, grid='pooled', batch_size=8},{share=0.3, seconds=0.64}"
)
READINGS = {"full grid": V1, "pooled grid": V2}
# C x T x F of the latents; 4 channels, one position a 4 x 4 cells of the mel, 64 frames in .64 s
SHAPES = {
    "full grid": [(4, 4, 16), (4, 8, 16), (4, 16, 16)],
    "pooled grid": [(4, 4, 8), (4, 8, 8), (4, 16, 16)],
}
BATCHES = {"full grid": [4, 4, 4], "pooled grid": [4, 8, 4]}


def overrides(reading):
    return ("diffusion.steps=6", f"diffusion.curriculum=[{READINGS[reading]}]")


def make(*phases, steps=100, batch_size=4, seconds=10.24):
    return Curriculum(phases, steps=steps, batch_size=batch_size, seconds=seconds)


def test_no_phases_are_one_of_full_resolution():
    (phase,) = make().phases
    assert (phase.first_step, phase.end_step, phase.config.pool) == (0, 100, 1)
    assert phase.config.seconds == 10.24
    assert phase.samples_at(7) == range(28, 32)
    assert phase.step_of(30) == (7, 2)


def test_phases_at_their_borders():
    curriculum = make(
        PhaseConfig(share=0.2, seconds=2.56, pool=4, batch_size=16),
        PhaseConfig(share=0.3, seconds=5.12, pool=2),
        PhaseConfig(share=0.5, seconds=10.24),
    )
    at = [curriculum.phase_at(step).number for step in (0, 19, 20, 49, 50, 99, 100)]
    assert at == [0, 0, 1, 1, 2, 2, 2]
    samples = [curriculum.phase_at(step).samples_at(step) for step in (0, 19, 20, 49, 50, 100)]
    assert samples == [
        range(16),
        range(304, 320),
        range(320, 324),
        range(436, 440),
        range(440, 444),
        range(640, 644),
    ]
    assert [curriculum.phase_of(i).number for i in (0, 319, 320, 439, 440, 10**6)] == [
        *(0, 0, 1, 1, 2, 2)
    ]


@given(
    shares=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batches=st.lists(st.integers(0, 5), min_size=5, max_size=5),
    steps=st.integers(60, 500),
)
def test_samples_are_numbered_without_a_gap(shares, batches, steps):
    total = sum(shares)
    curriculum = make(
        *(
            PhaseConfig(share=share / total, seconds=1.0, batch_size=size)
            for share, size in zip(shares, batches, strict=False)
        ),
        steps=steps,
        batch_size=3,
        seconds=1.0,
    )
    samples = [curriculum.phase_at(step).samples_at(step) for step in range(steps)]
    assert samples[0].start == 0
    assert all(one.stop == other.start for one, other in pairwise(samples))
    for step, indices in enumerate(samples):
        for place, index in enumerate(indices):
            assert curriculum.phase_of(index).step_of(index) == (step, place)


@pytest.mark.parametrize(
    ("phases", "fault"),
    [
        ((PhaseConfig(share=0.5, seconds=10.24),), "shares add up to 0.5"),
        ((PhaseConfig(share=1.0, seconds=5.12),), "last phase has pool 1, 5.12 s"),
        ((PhaseConfig(share=1.0, seconds=10.24, pool=2),), "last phase has pool 2"),
        (
            (PhaseConfig(share=0.001, seconds=1.0), PhaseConfig(share=0.999, seconds=10.24)),
            r"curriculum\[0\]: has no step of 100",
        ),
    ],
)
def test_impossible_curricula_are_refused(phases, fault):
    with pytest.raises(ValueError, match=fault):
        make(*phases)


def test_a_recipe_refuses_phases_that_do_not_fit(make_recipe, tiny_model, clips):
    with pytest.raises(ValueError, match="share: got 0"):
        make_recipe("diffusion.curriculum=[{share=0, seconds=1}]")
    with pytest.raises(ValueError, match=r"curriculum\[0\].batch_size: 3 is not a multiple of acc"):
        make_recipe(
            "diffusion.accumulate=2",
            "diffusion.curriculum=[{share=0.5, seconds=0.64, batch_size=3},"
            "{share=0.5, seconds=0.64}]",
        )
    recipe = make_recipe(
        "diffusion.curriculum=[{share=0.5, seconds=0.64, pool=3},{share=0.5, seconds=0.64}]"
    )
    with pytest.raises(ValueError, match="pool: got 3 on the full grid"):
        build_stage("diffusion", recipe, clips, tiny_model)


def test_blur_keeps_the_mean_and_loses_detail():
    mel = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    config = PhaseConfig(share=1.0, seconds=1.0, pool=4)
    full = config.blur(mel)
    pooled = dataclasses.replace(config, grid="pooled").blur(mel)
    assert full.shape == mel.shape
    assert pooled.shape == (2, 1, 16, 8)
    assert float(pooled[0, 0, 0, 0]) == pytest.approx(float(mel[0, 0, :4, :4].mean()), abs=1e-6)
    assert float(full.std()) < float(pooled.std()) < 0.4  # of 16 cells: a quarter
    flat = torch.full((1, 1, 8, 8), 3.0)
    assert torch.equal(config.blur(flat), flat)
    assert torch.equal(PhaseConfig(share=1.0, seconds=1.0).blur(mel), mel)


@pytest.mark.parametrize("reading", READINGS)
def test_latents_at_the_borders_of_phases(reading, make_recipe, clips, tiny_model):
    stage = build_stage("diffusion", make_recipe(*overrides(reading)), clips, tiny_model)
    assert stage.phase_starts() == (0, 2, 4)
    for number, step in enumerate((0, 1, 2, 3, 4, 5)):
        phase = number // 2
        indices = stage.sample_indices(step)
        assert len(indices) == BATCHES[reading][phase]
        batch = stage.load_batch(indices)
        times = sorted(batch["u"].tolist())  # one offset a step, then equal spacing
        assert all(b - a == pytest.approx(1 / len(times), abs=1e-6) for a, b in pairwise(times))
        prepared = stage.prepare(batch, torch.device("cpu"))
        shape = (len(indices), *SHAPES[reading][phase])
        assert prepared["latent"].shape == prepared["noise"].shape == shape
        assert prepared["cond"].shape == (len(indices), 16)


def test_encoded_phases_of_another_vae_are_refused(make_recipe, clips, tiny_model, tmp_path):
    recipe = make_recipe(*overrides("pooled grid"))
    encode_data(recipe, clips, tiny_model, tmp_path, device="cpu")
    index = tmp_path / "phase-1" / "index.json"
    contents = read_json(index)
    contents["metadata"]["vae"] = "another"
    write_json(index, contents)
    with pytest.raises(ValueError, match="phase-1: was encoded with a different VAE or CLAP"):
        build_stage("diffusion", recipe, tmp_path, tiny_model)


def test_one_cosine_runs_over_all_phases():
    config = DiffusionStageConfig(
        steps=100,
        learning_rate=1.0,
        seconds=1.0,
        curriculum=(
            PhaseConfig(share=0.5, seconds=0.5, pool=2, batch_size=2),
            PhaseConfig(share=0.5, seconds=1.0),
        ),
    )
    rates = [learning_rate(step, config) for step in range(100)]
    plain = dataclasses.replace(config, curriculum=())
    assert rates == [learning_rate(step, plain) for step in range(100)]
    assert rates[50] == pytest.approx(0.5)
    assert max(a - b for a, b in pairwise(rates)) < 0.02  # no jump at the border


@pytest.mark.parametrize(
    ("reading", "source"), [("pooled grid", "audio"), ("full grid", "encoded")]
)
def test_a_run_resumes_inside_any_phase(
    reading, source, go, make_recipe, clips, tiny_model, tmp_path
):
    settings = overrides(reading)
    data, out = clips, tmp_path / "whole"
    if source == "encoded":
        data = tmp_path / "encoded"
        encode_data(make_recipe(*settings), clips, tiny_model, data, device="cpu")
    for name in ("whole", "cut"):
        shutil.copytree(tiny_model, tmp_path / name, ignore=shutil.ignore_patterns("training"))
    expected = go("diffusion", out, *settings, data=data)
    assert [entry["phase"] for entry in expected] == [1, 1, 2, 2, 3, 3]
    for _ in range(6):  # each call is stopped after one step, whatever its phase
        go("diffusion", tmp_path / "cut", *settings, data=data, max_minutes=1e-9)
    found = read_log(run_folder(tmp_path / "cut", "diffusion"))
    assert [entry["step"] for entry in found] == list(range(1, 7))
    for one, other in zip(expected, found, strict=True):
        for key in ("loss", "learning_rate", "phase"):
            assert other[key] == pytest.approx(one[key], rel=1e-5), (one["step"], key)
    assert [entry["seconds"] for entry in found] == sorted(entry["seconds"] for entry in found)


def test_encoded_phases_draw_as_audio_does(make_recipe, clips, tiny_model, tmp_path):
    recipe = make_recipe(*overrides("pooled grid"))
    encode_data(recipe, clips, tiny_model, tmp_path, device="cpu")
    assert {f.name for f in tmp_path.iterdir() if f.is_dir()} == {"phase-1", "phase-2"}
    assert Latents(tmp_path / "phase-1", seed=0).metadata["pool"] == 2
    stages = [build_stage("diffusion", recipe, data, tiny_model) for data in (clips, tmp_path)]
    for step in (0, 2, 4):
        one, other = (
            stage.prepare(stage.load_batch(stage.sample_indices(step)), torch.device("cpu"))
            for stage in stages
        )
        assert one["files"] == other["files"]
        for key in ("latent", "cond", "noise"):
            assert torch.allclose(one[key], other[key], atol=1e-4), (step, key)
    other = make_recipe(*overrides("pooled grid"), "diffusion.curriculum=[]")
    build_stage("diffusion", other, tmp_path, tiny_model)  # the full resolution serves it
    blurred = make_recipe(*overrides("full grid"))
    with pytest.raises(ValueError, match="phase-1"):
        build_stage("diffusion", blurred, tmp_path, tiny_model)


def test_the_recipes_hold_both_readings():
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    sizes = {}
    for name in ("paper", "paper-full-grid"):
        recipe = read_recipe(recipes / f"{name}.toml")
        phases = recipe.diffusion.phases().phases
        assert [phase.first_step for phase in phases] == [0, 80_000, 200_000]
        sizes[name] = [
            phase.config.grid_of(round(phase.config.seconds * 100), recipe.model.vae.mel, (32, 32))
            for phase in phases
        ]
    assert sizes["paper"] == [(256, 32), (512, 32), (1024, 64)]
    assert sizes["paper-full-grid"] == [(256, 64), (512, 64), (1024, 64)]
