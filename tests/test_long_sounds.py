"""Long sounds in pieces: the same sound, and no seams."""

import pytest
import torch

from soundcrafter import codec
from soundcrafter.codec import vocode_in_pieces
from soundcrafter.diffusion.windows import window_starts
from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.pipeline import SoundCrafter

VOCODERS = {
    "hifigan": lambda: HiFiGAN(HiFiGANConfig(channels=32)),
    "melgan": lambda: MelGAN(MelGANConfig(channels=32)),
    "multi-band": lambda: MelGAN(MelGANConfig(channels=32, bands=4, ratios=(5, 4, 2))),
    "spectral": lambda: SpectralVocoder(SpectralConfig(width=8, blocks=2, iterations=4)),
}


@pytest.fixture(params=VOCODERS, name="vocoder")
def vocoder_of_each_kind(request) -> Vocoder:
    torch.manual_seed(0)
    vocoder = VOCODERS[request.param]().eval()
    for parameter in vocoder.parameters():
        if parameter.ndim > 1:  # loud enough for a difference to show
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return vocoder


@torch.no_grad()
def test_a_wave_in_pieces_is_the_wave(vocoder):
    mel = torch.randn(1, 1, 500, vocoder.config.mel.num_mels)
    whole = vocoder(mel)
    assert whole.std() > 1e-3
    torch.testing.assert_close(vocode_in_pieces(vocoder, mel, 100), whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_context_is_what_a_frame_depends_on(vocoder):
    frames, changed = 400, 200
    mel = torch.randn(1, 1, frames, vocoder.config.mel.num_mels)
    other = mel.clone()
    other[:, :, changed] += 1.0
    # Griffin-Lim rounds at 1e-6; a frame that is really seen makes a thousand times more
    reached = ((vocoder(mel) - vocoder(other)).abs()[0] > 1e-5).nonzero()
    hop, context = vocoder.config.mel.hop, vocoder.config.context
    assert len(reached)
    assert reached.min() // hop >= changed - context
    assert reached.max() // hop <= changed + context


def test_a_short_latent_is_decoded_as_it_is_and_a_long_one_in_windows(tiny_model, monkeypatch):
    crafter = SoundCrafter.from_pretrained(tiny_model, "cpu", precision="fp32")
    latent, seen, decode = crafter.noise(0, 1.6), [], crafter.vae.decode
    assert latent.shape[2] == 40
    with torch.inference_mode():
        whole = decode(latent)
    assert torch.equal(crafter.decode(latent), whole)
    monkeypatch.setattr(crafter.vae, "decode", lambda x: seen.append(x.shape[2]) or decode(x))
    monkeypatch.setattr(codec, "PIECE_SECONDS", 0.64)
    assert crafter.decode(latent).shape == whole.shape
    assert seen == [16] * 3  # at 0, 12 and 24


def test_the_bundled_model_has_no_seams_where_pieces_meet(monkeypatch):
    """Steps of the log-mel from frame to frame: where windows begin and end no larger than
    elsewhere, against the whole decoded at once."""
    crafter = SoundCrafter.from_pretrained(device="cpu", precision="fp32")
    latent = torch.cat([crafter.noise(seed, 4.0) for seed in range(3)], dim=2)
    window, ratio = 64, crafter.vae.config.stride[0]
    with torch.inference_mode():
        whole = crafter.vae.decode(latent)[0, 0]
    monkeypatch.setattr(codec, "PIECE_SECONDS", 2.56)
    mel = crafter.decode(latent)[0, 0]
    steps = mel.diff(dim=0).abs().mean(1)
    starts = window_starts(latent.shape[2], window, window // 4)
    borders = [ratio * edge - 1 for s in starts for edge in (s, s + window)]
    borders = [edge for edge in borders if 0 <= edge < len(steps)]
    assert len(borders) >= 4
    inside = torch.ones(len(steps), dtype=torch.bool)
    inside[borders] = False
    spread = steps[inside]
    assert steps[borders].max() < spread.mean() + 3 * spread.std()
    # and the blend is near the spectrogram that no window cut
    assert (mel - whole).abs().mean() < 0.35 * whole.std()
