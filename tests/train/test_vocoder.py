"""The vocoder's losses: full band, and sub-bands where the generator makes them."""

import pytest
import torch

from soundcrafter.mel import LogMel
from soundcrafter.models.losses import SUB_BAND, energy_distance, stft_loss
from soundcrafter.store import open_folder
from soundcrafter.train import build_stage

FULL = ("model.vocoder.bands=1", "model.vocoder.ratios=[8,5,4]")


@pytest.fixture
def module_and_batch(make_recipe, clips, tmp_path):
    """The generator's loss module and one batch."""

    def make(*overrides):
        stage = build_stage("vocoder", make_recipe(*overrides), clips, tmp_path)
        batch = stage.prepare(stage.load_batch(range(2)), torch.device("cpu"))
        return stage.loss_modules["vocoder"], batch

    return make


def test_the_stft_term_is_the_mean_of_full_band_and_sub_bands(module_and_batch, monkeypatch):
    module, batch = module_and_batch()
    vocoder, calls = module.network, []
    sub_bands = vocoder.sub_bands(batch["mel"])
    monkeypatch.setattr(vocoder, "sub_bands", lambda mel: calls.append(mel) or sub_bands)
    losses, extras = module(batch, 0)
    fake, real = vocoder.join_bands(sub_bands), vocoder.pqmf.analysis(batch["wave"])
    full, sub = stft_loss(batch["wave"], fake), stft_loss(real, sub_bands, SUB_BAND)
    assert sub.item() != pytest.approx(full.item(), rel=1e-3)
    assert losses["stft"].item() == pytest.approx((full + sub).item() / 2)
    assert torch.equal(extras["fake"], fake)
    assert len(calls) == 1  # generated once for both


def test_without_sub_bands_the_stft_term_is_of_the_full_band(module_and_batch):
    module, batch = module_and_batch(*FULL)
    losses, extras = module(batch, 0)
    assert losses["stft"].item() == pytest.approx(stft_loss(batch["wave"], extras["fake"]).item())


def test_the_sub_bands_of_the_wave_itself_are_the_aim(module_and_batch, monkeypatch):
    module, batch = module_and_batch()
    real = module.network.pqmf.analysis(batch["wave"])
    monkeypatch.setattr(module.network, "sub_bands", lambda mel: real)
    losses, _ = module(batch, 0)
    assert losses["stft"].item() < 0.1


SPECTRAL = (
    'model.vocoder={kind="spectral",width=8,blocks=1,iterations=2,mel_mean=-5.0,mel_std=3.0}',
    "vocoder.stft_weight=0.0",
    "vocoder.energy_weight=1.0",
    "vocoder.discriminator.scales=0",
    "vocoder.spectrograms={resolutions=[[256,64],[128,32]],channels=4}",
)


def test_a_spectral_vocoder_makes_two_sounds_of_each_mel(module_and_batch):
    module, batch = module_and_batch(*SPECTRAL)
    first, second = batch["turns"]
    assert first.shape == second.shape == (2, 52, 513)
    assert not torch.equal(first, second)
    before, extras = module(batch, 0)
    assert set(before) == {"energy"}
    losses, _ = module(batch, 2)  # the discriminator takes part
    assert set(losses) == {"energy", "adversarial", "features"}
    made = module.network(batch["mel"], first)
    torch.testing.assert_close(extras["fake"], made, atol=1e-6, rtol=1e-5)
    expected = energy_distance(batch["wave"], made, module.network(batch["mel"], second))
    assert losses["energy"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", [(), SPECTRAL], ids=["melgan", "spectral"])
def test_the_mel_term_is_of_the_mel_that_was_asked_for(kind, module_and_batch):
    module, batch = module_and_batch(*kind, "vocoder.mel_weight=1.0")
    losses, extras = module(batch, 0)
    found = LogMel(module.network.config.mel)(extras["fake"])
    assert losses["mel"].item() == pytest.approx(
        (found - batch["mel"]).abs().mean().item(), rel=1e-4
    )


def test_it_trains_resumes_and_is_exported(go, tmp_path):
    settings = (*SPECTRAL, "vocoder.steps=4", "vocoder.adversarial_start=1")
    whole = go("vocoder", tmp_path / "whole", *settings)
    assert "discriminator_hinge" in whole[-1]
    go("vocoder", tmp_path / "cut", *settings, max_minutes=1e-9)
    rest = go("vocoder", tmp_path / "cut", *settings)
    assert [entry["step"] for entry in rest] == [2, 3, 4]
    for one, other in zip(whole[1:], rest, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    folder = open_folder(tmp_path / "whole")
    assert folder.load("vocoder")(torch.randn(2, 1, 20, 64) - 5).shape == (2, 3200)
    again = go("vocoder", tmp_path / "on", *settings, init=tmp_path / "whole")
    assert len(again) == 4


def test_it_can_learn_from_what_the_vae_decodes(make_recipe, clips, tiny_model):
    def mels(*overrides):
        stage = build_stage("vocoder", make_recipe(*SPECTRAL, *overrides), clips, tiny_model)
        batch = stage.load_batch(range(4))
        return stage, stage.prepare(batch, torch.device("cpu"))["mel"]

    plain, mel = mels("vocoder.seconds=0.64")
    every, decoded = mels("vocoder.seconds=0.64", "vocoder.decoded=1.0")
    some, mixed = mels("vocoder.seconds=0.64", "vocoder.decoded=0.5")
    vae = open_folder(tiny_model).load("vae")
    with torch.no_grad():
        expected = vae.decode(vae.encode(mel))
    torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=1e-4)
    same = [torch.allclose(a, b) for a, b in zip(mixed, mel, strict=True)]
    assert 0 < sum(same) < 4
    assert (plain.name, every.name) == ("vocoder", "vocoder_decoded")
    assert plain.identity()["vae"] == ""
    assert every.identity()["vae"] == open_folder(tiny_model).parts["vae"].training_id
    assert some.frames % vae.config.stride[0] == 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (SPECTRAL[:1], "energy_weight: got 0.0; above 0 for a spectral"),
        (("vocoder.energy_weight=1.0",), "0 for MelGAN"),
        (("vocoder.discriminator.scales=0",), "at least one discriminator"),
        (('model.vocoder={kind="hifigan"}',), "hifigan cannot be trained"),
        (("vocoder.decoded=1.5",), "decoded: got 1.5"),
    ],
)
def test_impossible_trainings_are_refused(overrides, words, make_recipe, clips, tmp_path):
    with pytest.raises(ValueError, match=words):
        build_stage("vocoder", make_recipe(*overrides), clips, tmp_path)
