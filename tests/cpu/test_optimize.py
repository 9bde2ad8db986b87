"""An optimized network computes what the plain one does."""

import copy

import pytest
import torch
from torch import Tensor, nn

from soundcrafter.cpu import blocked_attention, slabs
from soundcrafter.cpu.blocked_attention import attend_in_blocks
from soundcrafter.cpu.convolutions import FastConv1d, FastConv2d, FastConvTranspose1d
from soundcrafter.cpu.optimize import optimize
from soundcrafter.cpu.upsample import PolyphaseUpsample
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.layers import ResBlock, Upsample
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LEVELS = {"multipliers": (1, 2), "strides": ((1, 1), (2, 2)), "norm_groups": 4}
MEL = MelConfig(num_mels=16)
UNET = UNetConfig(
    channels=8, embed_dim=8, attention=(False, True), heads=(2, 2), res_blocks=1, **LEVELS
)


def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A small network and its inputs."""
    torch.manual_seed(0)
    mel = torch.randn(2, 1, 32, 16)
    latent = torch.randn(2, 8, 7, 3)  # odd, so that upsampling is cropped
    networks: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "unet": (UNet(UNET), (latent, torch.tensor([900.0, 3.0]), torch.randn(2, 8))),
        "hifigan": (HiFiGAN(HiFiGANConfig(mel=MEL, channels=64)), (mel,)),
        "melgan": (MelGAN(MelGANConfig(mel=MEL, channels=32)), (mel,)),
        "spectral": (SpectralVocoder(SpectralConfig(mel=MEL, width=16, blocks=2)), (mel,)),
    }
    net, inputs = networks[name]
    for parameter in net.parameters():  # none starts at zero
        if parameter.ndim > 2:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return net.eval(), inputs


@pytest.mark.parametrize("name", ["unet", "hifigan", "melgan", "spectral"])
def test_a_network_is_the_plain_one(name: str) -> None:
    plain, inputs = network(name)
    fast = optimize(copy.deepcopy(plain))
    assert list(fast.state_dict()) == list(plain.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(fast(*inputs), plain(*inputs), **CLOSE)
    torch.testing.assert_close(fast(*inputs), plain(*inputs), **CLOSE)  # with gradients
    fast.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("slabs_from", [1, 2**22])
def test_a_vae_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, slabs_from: int) -> None:
    monkeypatch.setattr(slabs, "_SLABS_FROM", slabs_from)
    monkeypatch.setattr(slabs, "_SLAB", 2000)
    torch.manual_seed(0)
    plain = VAE(VAEConfig(mel=MEL, channels=8, **LEVELS)).eval()
    fast = optimize(copy.deepcopy(plain))
    mel = torch.randn(2, 1, 24, 16)
    with torch.inference_mode():
        latent = plain.encode(mel)
        torch.testing.assert_close(fast.encode(mel), latent, **CLOSE)
        torch.testing.assert_close(fast.decode(latent), plain.decode(latent), **CLOSE)
    fast.decode(latent.clone()).sum().backward()
    assert fast.last_layer.grad is not None


def test_it_can_be_called_twice() -> None:
    plain, inputs = network("unet")
    with torch.inference_mode():
        torch.testing.assert_close(optimize(optimize(plain))(*inputs), network("unet")[0](*inputs))


def test_only_what_gains_and_fits_is_replaced() -> None:
    fast = optimize(
        nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, stride=2),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1, groups=2),
            nn.Conv2d(4, 4, 3, padding="same"),
            nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        )
    )
    assert [isinstance(layer, FastConv2d) for layer in fast] == [True] + 6 * [False]


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize(
    ("kernel", "dilation", "stride", "groups"), [(7, 1, 1, 1), (3, 3, 1, 2), (1, 1, 1, 1)]
)
def test_1d_convolutions(
    kernel: int, dilation: int, stride: int, groups: int, padding_mode: str
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(
        *(6, 4, kernel, stride, dilation * (kernel - 1) // 2, dilation, groups),
        padding_mode=padding_mode,
    )
    x = torch.randn(2, 6, 20, requires_grad=True)
    expected = conv(x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    fast = optimize(conv)
    assert isinstance(fast, FastConv1d)
    torch.testing.assert_close(fast(x), expected, **CLOSE)
    torch.testing.assert_close(fast(x.mT.contiguous().mT), expected, **CLOSE)
    (grad,) = torch.autograd.grad(fast(x).square().sum(), x)
    torch.testing.assert_close(grad, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra", "replaced"),
    [
        (16, 5, 5, 0, True),
        (16, 4, 6, 0, True),
        (10, 5, 3, 1, True),
        (4, 2, 1, 0, True),
        (3, 2, 0, 1, True),
        (2, 5, 0, 3, True),
        (2, 5, 0, 4, False),  # beyond the last tap
    ],
)
def test_transposed_1d_convolutions(
    kernel: int, stride: int, padding: int, extra: int, replaced: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose1d(6, 4, kernel, stride, padding=padding, output_padding=extra)
    x = torch.randn(2, 6, 9)
    expected = conv(x)
    assert isinstance(optimize(conv), FastConvTranspose1d) == replaced
    torch.testing.assert_close(conv(x), expected, **CLOSE)


@pytest.mark.parametrize("stride", [(2, 2), (2, 1), (1, 2), (1, 1)])
def test_upsampling(stride: tuple[int, int]) -> None:
    torch.manual_seed(0)
    upsample = Upsample(8, stride)
    x = torch.randn(2, 8, 5, 4)
    odd = (5 * stride[0] - stride[0] + 1, 4 * stride[1] - stride[1] + 1)
    plain, plain_odd = upsample(x), upsample(x, odd)
    assert isinstance(optimize(upsample), PolyphaseUpsample)
    with torch.no_grad():
        torch.testing.assert_close(upsample(x), plain, **CLOSE)
        torch.testing.assert_close(upsample(x, odd), plain_odd, **CLOSE)


@pytest.mark.parametrize("out_channels", [4, 8, 16])
@pytest.mark.parametrize("slab", [1, 200, 10**6])
def test_blocks_in_slabs(monkeypatch: pytest.MonkeyPatch, out_channels: int, slab: int) -> None:
    monkeypatch.setattr(slabs, "_SLABS_FROM", 1)
    monkeypatch.setattr(slabs, "_SLAB", slab)
    torch.manual_seed(0)
    block = ResBlock(8, out_channels, norm_groups=4, eps=1e-6).eval()
    nn.init.normal_(block.norm1.weight)
    nn.init.normal_(block.norm2.bias)
    x = torch.randn(2, 8, 11, 6) + 3.0
    with torch.no_grad():
        plain = block(x)
        torch.testing.assert_close(optimize(block)(x.clone()), plain, **CLOSE)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("scores", [7, 40, 150, 10**6])
@torch.no_grad()
def test_attention_in_blocks(monkeypatch: pytest.MonkeyPatch, scores: int, batch: int) -> None:
    monkeypatch.setattr(blocked_attention, "_SCORES", scores)
    torch.manual_seed(0)
    # as `SelfAttention` has them: heads side by side
    q, k, v = (torch.randn(batch, 11, 3, 8).transpose(1, 2).bfloat16() for _ in "qkv")
    exact = nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(attend_in_blocks(q, k, v).float(), exact, rtol=0, atol=0.02)
