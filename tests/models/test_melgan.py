"""MelGAN and its filter bank: exact lengths, published sizes, weight norm, reconstruction."""

import pytest
import torch
from torch.nn.utils.parametrize import is_parametrized

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig, apply_weight_norm, fold_weight_norm
from soundcrafter.models.pqmf import PQMF
from soundcrafter.settings import from_dict, to_dict

MEL = MelConfig(num_mels=8)


def tiny(**changes: object) -> MelGAN:
    torch.manual_seed(0)
    settings = {"mel": MEL, "channels": 16, "ratios": (8, 5, 2, 2), **changes}
    return MelGAN(MelGANConfig(**settings)).eval()


def snr(wave: torch.Tensor, other: torch.Tensor) -> float:
    return float(10 * torch.log10(wave.square().sum() / (wave - other).square().sum()))


@pytest.mark.parametrize(
    ("ratios", "count"), [((8, 5, 2, 2), 4_006_305), ((5, 4, 4, 2), 3_187_105)]
)
def test_published_sizes(ratios: tuple[int, ...], count: int) -> None:
    model = MelGAN(MelGANConfig(ratios=ratios))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("ratios", "hop"),
    [((8, 5, 2, 2), 160), ((5, 4, 4, 2), 160), ((3, 5), 15), ((7, 3, 3), 63), ((5,), 5)],
)
@pytest.mark.parametrize("frames", [5, 8])
def test_length_is_frames_times_hop(ratios: tuple[int, ...], hop: int, frames: int) -> None:
    mel = MelConfig(num_mels=8, hop=hop, n_fft=512 + hop)
    model = tiny(mel=mel, ratios=ratios)
    wave = model(torch.randn(2, 1, frames, 8))
    assert wave.shape == (2, frames * hop)
    assert wave.abs().max() < 1


def test_fewest_frames() -> None:
    model = tiny()
    assert model(torch.randn(1, 1, model.config.min_frames, 8)).shape == (1, 4 * 160)
    with pytest.raises(ValueError, match="at least 4"):
        model(torch.randn(1, 1, model.config.min_frames - 1, 8))
    deep = tiny(mel=MelConfig(num_mels=8, hop=4, n_fft=64), ratios=(2, 2), res_layers=4)
    assert deep.config.min_frames == 14  # 28 samples, more than the dilation of 27
    assert deep(torch.randn(1, 1, 14, 8)).shape == (1, 56)
    with pytest.raises(ValueError, match=r"allowed: \[B, 1, T, 8\]"):
        model(torch.randn(1, 1, 10, 9))


def test_output_frame_belongs_to_its_mel_frame() -> None:
    """A change in one frame moves the wave around that frame: no drift from odd ratios."""
    model = tiny().double()  # before training a frame's effect drowns in float32
    mel = torch.randn(1, 1, 200, 8, dtype=torch.float64)
    changed = mel.clone()
    changed[:, :, 100] += 1
    moved = (model(changed) - model(mel)).abs()[0] > 0
    centre = moved.nonzero().float().mean().item()
    assert moved.sum() < 30 * 160
    assert abs(centre - 100.5 * 160) < 80


def test_normalises_inside() -> None:
    plain, scaled = tiny(), tiny(mel_mean=-5.0, mel_std=2.0)
    mel = torch.randn(1, 1, 12, 8)
    torch.testing.assert_close(scaled(mel * 2 - 5), plain(mel), rtol=1e-4, atol=1e-7)


def test_multi_band() -> None:
    model = tiny(ratios=(5, 4, 2), bands=4)
    mel = torch.randn(2, 1, 10, 8)
    sub_bands = model.sub_bands(mel)
    assert sub_bands.shape == (2, 4, 400)
    wave = model(mel)
    assert wave.shape == (2, 1600)
    torch.testing.assert_close(model.join_bands(sub_bands), wave)
    assert tiny().sub_bands(mel).shape == (2, 1, 1600)


def test_weight_norm_folds_to_equal_outputs() -> None:
    model = tiny()
    mel = torch.randn(1, 1, 12, 8)
    before, names = model(mel), set(model.state_dict())
    apply_weight_norm(model)
    apply_weight_norm(model)  # a second time changes nothing
    assert all(
        is_parametrized(m, "weight")
        for m in model.modules()
        if type(m).__name__.endswith(("Conv1d", "ConvTranspose1d"))
    )
    torch.testing.assert_close(model(mel), before)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (model(mel) - 0.3).square().mean().backward()
        optimizer.step()
    trained = model(mel)
    assert (trained - before).abs().max() > 1e-3
    fold_weight_norm(model)
    fold_weight_norm(model)
    torch.testing.assert_close(model(mel), trained)
    assert set(model.state_dict()) == names
    plain = tiny()
    plain.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(plain(mel), trained)


def test_narrow_model_starts_with_a_signal() -> None:
    """N(0, .02) weights would leave exactly none: no gradient could find the mel."""
    model = MelGAN(MelGANConfig(channels=128))
    mel = torch.randn(1, 1, 20, 64)
    assert (model(mel) - model(mel + 1)).std() > 1e-7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratios": (8, 5, 2)}, "a product of the hop, 160"),
        ({"ratios": (5, 4, 2)}, "a product of the hop, 160"),
        ({"ratios": (160, 1)}, "2 or more"),
        ({"channels": 24}, "multiples of 16"),
        ({"channels": 8}, "multiples of 16"),
        ({"res_layers": 0}, "res_layers"),
        ({"mel_std": 0.0}, "mel_std"),
    ],
)
def test_config_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MelGANConfig(**changes)


def test_config_round_trip() -> None:
    config = MelGANConfig(mel=MEL, channels=32, ratios=(5, 4, 2), bands=4, mel_mean=-4.5)
    assert from_dict(MelGANConfig, to_dict(config)) == config


def test_pqmf_reconstructs_without_delay() -> None:
    generator = torch.Generator().manual_seed(1)
    wave = torch.randn(3, 16_000, generator=generator)
    bank = PQMF()
    sub_bands = bank.analysis(wave)
    assert sub_bands.shape == (3, 4, 4000)
    again = bank.synthesis(sub_bands)
    assert again.shape == wave.shape
    assert snr(wave[:, 31:-31], again[:, 31:-31]) > 60


def test_pqmf_bands_are_in_order() -> None:
    """A tone in the middle of band k comes out of filter k alone, at its own amplitude."""
    time = torch.arange(4000)
    for k in range(4):
        tone = torch.sin(torch.pi * (k + 0.5) / 4 * time + 0.3)[None]
        power = PQMF().analysis(tone)[0, :, 50:-50].square().mean(1)
        assert power.argmax() == k
        assert abs(float(power[k]) - 0.5) < 0.02
        assert power.sum() - power[k] < 1e-4


def test_pqmf_keeps_its_precision() -> None:
    wave = torch.randn(1, 4000)
    bank = PQMF()
    with torch.autocast("cpu", torch.bfloat16):
        again = bank.synthesis(bank.analysis(wave))
    assert again.dtype == torch.float32
    assert snr(wave[:, 31:-31], again[:, 31:-31]) > 60
    assert not PQMF().state_dict()


def test_pqmf_refuses() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        PQMF().analysis(torch.zeros(1, 4001))
