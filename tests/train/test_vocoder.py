"""The vocoder's losses: full band, and sub-bands where the generator makes them."""

import pytest
import torch

from soundcrafter.models.losses import SUB_BAND, stft_loss
from soundcrafter.train import build_stage

FULL = ("model.vocoder.bands=1", "model.vocoder.ratios=[8,5,4]")


@pytest.fixture
def player_and_batch(make_recipe, clips, tmp_path):
    """The generator's player and one batch."""

    def make(*overrides):
        stage = build_stage("vocoder", make_recipe(*overrides), clips, tmp_path)
        batch = stage.prepare(stage.load_batch(range(2)), torch.device("cpu"))
        return stage.players["vocoder"], batch

    return make


def test_the_stft_term_is_the_mean_of_full_band_and_sub_bands(player_and_batch, monkeypatch):
    player, batch = player_and_batch()
    vocoder, calls = player.network, []
    sub_bands = vocoder.sub_bands(batch["mel"])
    monkeypatch.setattr(vocoder, "sub_bands", lambda mel: calls.append(mel) or sub_bands)
    terms, extras = player(batch, 0)
    fake, real = vocoder.join_bands(sub_bands), vocoder.pqmf.analysis(batch["wave"])
    full, sub = stft_loss(batch["wave"], fake), stft_loss(real, sub_bands, SUB_BAND)
    assert sub.item() != pytest.approx(full.item(), rel=1e-3)
    assert terms["stft"].item() == pytest.approx((full + sub).item() / 2)
    assert torch.equal(extras["fake"], fake)
    assert len(calls) == 1  # generated once for both


def test_without_sub_bands_the_stft_term_is_of_the_full_band(player_and_batch):
    player, batch = player_and_batch(*FULL)
    terms, extras = player(batch, 0)
    assert terms["stft"].item() == pytest.approx(stft_loss(batch["wave"], extras["fake"]).item())


def test_the_sub_bands_of_the_wave_itself_are_the_aim(player_and_batch, monkeypatch):
    player, batch = player_and_batch()
    real = player.network.pqmf.analysis(batch["wave"])
    monkeypatch.setattr(player.network, "sub_bands", lambda mel: real)
    terms, _ = player(batch, 0)
    assert terms["stft"].item() < 0.1
