"""The VAE's losses: several scales, and likeness in the eyes of a frozen tagger."""

import pytest
import torch

from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.models.aisfx import MelReader
from soundcrafter.models.discriminators import feature_matching
from soundcrafter.models.losses import multi_scale_l1, perceptual_distance
from soundcrafter.store import open_folder
from soundcrafter.train import build_stage

TAGGER = (
    "tagger.network.width=8",
    "tagger.network.depths=[1,1]",
    'tagger.network.classes=["dog bark","rain","other"]',
    "tagger.steps=1",
    "tagger.batch_size=4",
    "tagger.seconds=0.64",
)
SAME_MEL = tuple(f"tagger.network.mel.{k}" for k in ("n_fft=1024", "hop=160", "fmin=0.0"))


@pytest.fixture(scope="module")
def tagger_folder(go, tmp_path_factory):
    """A model folder whose tagger reads the VAE's mel."""
    folder = tmp_path_factory.mktemp("tagger")
    go("tagger", folder, *TAGGER, *SAME_MEL)
    return folder


def test_the_terms_are_what_they_say(tagger_folder, make_recipe, clips, tmp_path):
    overrides = (f"vae.perceptual={tagger_folder}", "vae.reconstruction_scales=[1,4]")
    stage = build_stage("vae", make_recipe(*overrides), clips, tmp_path)
    batch = stage.prepare(stage.load_batch(range(2)), torch.device("cpu"))
    with torch.no_grad():
        losses, extras = stage.loss_modules["vae"](batch, 0)
        tagger = open_folder(tagger_folder).load("tagger")
        mel, decoded = batch["mel"], extras["decoded"]
        expected = perceptual_distance(tagger.maps(mel), tagger.maps(decoded))
    assert len(tagger.maps(mel)) == 3  # stem and two blocks
    assert losses["perceptual"].item() == pytest.approx(expected.item(), rel=1e-4)
    expected = multi_scale_l1(mel, decoded, (1, 4))
    assert losses["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert stage.weights(0)["perceptual"] == 1.0
    assert stage.identity()["perceptual"] == open_folder(tagger_folder).parts["tagger"].training_id


def test_the_tagger_does_not_learn_and_is_not_saved(
    tagger_folder, go, make_recipe, clips, tmp_path
):
    before = open_folder(tagger_folder).load("tagger").state_dict()
    overrides = (f"vae.perceptual={tagger_folder}", "vae.steps=3", "vae.learning_rate=0.01")
    stage = build_stage("vae", make_recipe(*overrides), clips, tmp_path)
    assert not any(p.requires_grad for p in stage.perceptual.parameters())
    assert not any("perceptual" in name for name, _ in stage.loss_modules["vae"].named_parameters())
    entries = go("vae", tmp_path, *overrides)
    assert entries[-1]["perceptual"] > 0
    after = open_folder(tagger_folder).load("tagger").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any("tower" in key for key in open_folder(tmp_path).load("vae").state_dict())


def test_a_tagger_of_another_mel_is_refused(go, make_recipe, clips, tmp_path):
    go("tagger", tmp_path / "other", *TAGGER)
    recipe = make_recipe(f"vae.perceptual={tmp_path / 'other'}")
    with pytest.raises(
        ValueError, match=r"the settings of tagger differ .*model\.vae\.mel\.\w+ is"
    ):
        build_stage("vae", recipe, clips, tmp_path)


def test_the_terms_of_aisfx_and_of_the_discriminator(teacher, go, make_recipe, clips, tmp_path):
    overrides = (f"vae.teacher={teacher}", "vae.teacher_weight=0.5", "vae.feature_weight=2.0")
    stage = build_stage("vae", make_recipe(*overrides), clips, tmp_path)
    batch = stage.prepare(stage.load_batch(range(2)), torch.device("cpu"))
    module, start = stage.loss_modules["vae"], stage.config.adversarial_start
    losses, extras = module(batch, start)
    mel, decoded = batch["mel"], extras["decoded"]
    network, reader = load_aisfx(teacher), MelReader(stage.model_config.mel)
    maps = [network.maps(reader(x)) for x in (mel, decoded)]
    assert len(maps[0]) == 3
    assert losses["teacher"].item() == pytest.approx(perceptual_distance(*maps).item(), rel=1e-4)
    discriminator = stage.loss_modules["discriminator"].network
    mean, std = stage.model_config.mel_mean, stage.model_config.mel_std
    with torch.no_grad():
        judged = [discriminator((x - mean) / std) for x in (mel, decoded)]
    assert losses["features"].item() == pytest.approx(feature_matching(*judged).item(), rel=1e-4)
    assert stage.weights(0)["teacher"] == 0.5
    assert stage.weights(0)["features"] == 2.0
    assert "features" not in module(batch, start - 1)[0]
    assert not any("teacher" in name for name, _ in module.named_parameters())
    entries = go("vae", tmp_path / "run", *overrides)
    assert entries[-1]["teacher"] > 0
