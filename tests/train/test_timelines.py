"""Training on timelines: encoded as on the fly, on a device, and what the recipe must say."""

import pytest
import torch

from soundcrafter.data.events import MAX_EVENTS
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.train import build_stage
from soundcrafter.train.encode import encode_data

TIMELINES = ("model.unet.timelines=true", "data.timeline_probability=0.7")
STEPS = ("diffusion.steps=4", "diffusion.learning_rate=0.01")


@pytest.fixture(scope="module")
def encoded_timelines(tmp_path_factory, make_recipe, clips, tiny_model):
    folder = tmp_path_factory.mktemp("timelines")
    encode_data(make_recipe(*TIMELINES), clips, tiny_model, folder, device="cpu")
    return folder


def test_encoded_training_equals_training_on_the_fly(
    encoded_timelines, clips, model_copy, tmp_path, go
):
    live = go("diffusion", model_copy, *TIMELINES, *STEPS, data=clips)
    stored = go("diffusion", tmp_path / "stored", *TIMELINES, *STEPS, data=encoded_timelines)
    assert [entry["loss"] for entry in stored] == pytest.approx(
        [entry["loss"] for entry in live], rel=1e-5
    )
    model = SoundCrafter.from_pretrained(model_copy, "cpu")
    assert model.unet.config.timelines
    assert len(model.generate("rain", seconds=1.0, steps=1)[0].wave) == model.sample_rate


def test_the_condition_of_a_batch_changes_over_time(
    encoded_timelines, clips, tiny_model, make_recipe
):
    recipe = make_recipe(*TIMELINES)
    for data in (clips, encoded_timelines):
        stage = build_stage("diffusion", recipe, data, tiny_model)
        batch = stage.prepare(stage.load_batch(range(16)), torch.device("cpu"))
        frames = batch["latent"].shape[2]
        assert batch["cond"].shape == (16, frames, 16)
        torch.testing.assert_close(batch["cond"].norm(dim=2), torch.ones(16, frames))
        constant = (batch["cond"] == batch["cond"][:, :1]).all((1, 2))
        assert 1 <= int(constant.sum()) <= 10


def test_on_a_device_timelines_are_drawn_too(encoded_timelines, make_recipe, tmp_path):
    stage = build_stage("diffusion", make_recipe(*TIMELINES), encoded_timelines, tmp_path)
    drawn = stage.resident(torch.device("cpu"))()
    assert drawn["levels"].shape[:2] == (4, MAX_EVENTS)
    batch = stage.prepare(drawn, torch.device("cpu"))
    assert batch["cond"].ndim == 3
    loss, _ = stage.loss_modules["unet"](batch, 0)
    assert bool(loss["denoising"].isfinite())


def test_a_recipe_without_a_condition_for_silence_is_refused(
    make_recipe, encoded_timelines, tmp_path
):
    with pytest.raises(ValueError, match=r"timeline_probability: requires model\.unet\.timelines"):
        make_recipe(TIMELINES[1])
    with pytest.raises(ValueError, match=r"data\.timeline_probability is 0\.7, not 0\.0"):
        build_stage("diffusion", make_recipe(), encoded_timelines, tmp_path)


def test_timelines_are_for_the_u_net_alone(make_recipe, clips, tmp_path):
    stage = build_stage("vae", make_recipe(*TIMELINES), clips, tmp_path)
    assert stage.sounds.config.timeline_probability == 0
