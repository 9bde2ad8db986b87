import math

import numpy as np
import pytest
import torch

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.griffin_lim import griffin_lim, random_phases

CONFIG = MelConfig()


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(16000 * seconds)) / 16000)[None]


def test_a_tone_comes_back_at_its_frequency():
    made = griffin_lim(LogMel(CONFIG)(tone(1000.0)), CONFIG)
    spectrum = np.abs(np.fft.rfft(made[0].numpy()))
    assert made.shape == (1, 16000)
    assert abs(int(spectrum.argmax()) - 1000) < 40  # within the mel band


@pytest.mark.parametrize("seconds", [0.1, 0.335, 1.0])
def test_the_mel_of_noise_comes_back(seconds):
    wave = 0.1 * torch.randn(2, int(16000 * seconds), generator=torch.Generator().manual_seed(0))
    mel = LogMel(CONFIG)(wave)
    made = griffin_lim(mel, CONFIG)
    assert made.shape == (2, mel.shape[2] * CONFIG.hop)
    assert (LogMel(CONFIG)(made) - mel).abs().mean() < 0.25


def test_an_onset_stays_where_it_was():
    wave = torch.zeros(1, 16000)
    wave[:, 8000:] = 0.3 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    made = griffin_lim(LogMel(CONFIG)(wave), CONFIG)[0]
    energy = made.square().cumsum(0)
    onset = int((energy > 0.01 * energy[-1]).nonzero()[0])
    assert abs(onset - 8000) < CONFIG.n_fft / 2


def test_more_iterations_come_nearer():
    mel = LogMel(CONFIG)(tone(440.0) + tone(555.0))

    def distance(iterations: int) -> float:
        made = griffin_lim(mel, CONFIG, iterations=iterations)
        return float((LogMel(CONFIG)(made) - mel).abs().mean())

    assert distance(64) < distance(2)


def test_silence_is_finite_and_seeds_decide():
    silence = LogMel(CONFIG)(torch.zeros(1, 3200))
    assert torch.isfinite(griffin_lim(silence, CONFIG)).all()
    mel = LogMel(CONFIG)(tone(700.0, 0.3))
    one, again, other = (
        griffin_lim(mel, CONFIG, iterations=4, phases=random_phases(mel.shape[2], CONFIG, s))
        for s in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_another_kind_of_mel_is_refused():
    config = MelConfig(power=2)
    with pytest.raises(ValueError, match="power 1"):
        griffin_lim(LogMel(config)(tone(500.0)), config)
