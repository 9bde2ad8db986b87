"""HiFi-GAN: its published size, lengths and what its settings refuse. Parity: tests/convert."""

import dataclasses
from typing import Any

import pytest
import torch

from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.vocoder import build_vocoder
from soundcrafter.settings import from_dict, to_dict

SMALL = HiFiGANConfig(channels=32)


def test_the_published_size() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in HiFiGAN(HiFiGANConfig()).parameters())
    assert round(count / 1e6, 2) == 55.26


@pytest.mark.parametrize("frames", [1, 2, 37])
def test_any_length_gives_exactly_hop_samples_a_frame(frames: int) -> None:
    torch.manual_seed(0)
    vocoder = build_vocoder(SMALL)
    wave = vocoder(torch.randn(3, 1, frames, 64))
    assert wave.shape == (3, 160 * frames)
    assert wave.dtype == torch.float32
    assert wave.abs().max() < 1
    assert vocoder.config.min_frames == 1


def test_each_sound_is_its_own_and_half_precision_is_near() -> None:
    torch.manual_seed(0)
    vocoder, mel = HiFiGAN(SMALL).eval(), torch.randn(3, 1, 20, 64)
    with torch.no_grad():
        whole = vocoder(mel)
        alone = torch.cat([vocoder(one[None]) for one in mel])
        torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
        half = vocoder.bfloat16()(mel)
    assert (half - whole).norm() / whole.norm() < 0.1


@pytest.mark.parametrize("shape", [(1, 64), (1, 2, 8, 64), (1, 1, 8, 32), (1, 1, 0, 64)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mel: got shape .*allowed: \[B, 1, T, 64\]"):
        HiFiGAN(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": (5, 4, 2, 2)}, "a product of the hop, 160"),
        ({"kernels": (16, 16)}, "one for each ratio"),
        ({"kernels": (4, 16, 8, 4, 4)}, "each at least its ratio"),
        ({"channels": 48}, "multiples of 32"),
        ({"res_kernels": (4,)}, "odd numbers"),
        ({"dilations": ()}, "one or more"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_settings_round_trip_among_the_vocoders() -> None:
    from soundcrafter.models.vocoder import VocoderConfig

    assert from_dict(VocoderConfig, to_dict(SMALL)) == SMALL  # type: ignore[arg-type]
