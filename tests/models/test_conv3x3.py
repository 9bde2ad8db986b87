"""Packed 3x3 convolutions of narrow maps make what plain ones do."""

import copy

import pytest
import torch
import torch.nn.functional as F

from soundcrafter.bench.meter import count_flops
from soundcrafter.models.conv3x3 import Conv3x3
from soundcrafter.models.packed import pack_all
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.precision import cast_weights, cpu_has_bf16

needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16 instructions here")


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs).square().mean().sqrt() / theirs.std())


@needs_bf16
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("frames", [1, 7])
@torch.no_grad()
def test_packed_is_plain(frames, bands, order):
    torch.manual_seed(0)
    layer = Conv3x3(24, 40).bfloat16()
    x = torch.randn(2, 24, frames, bands).bfloat16().contiguous(memory_format=order)
    theirs = F.conv2d(x.float(), layer.weight.float(), layer.bias.float(), padding=1)
    layer.pack(bands)
    assert layer.weight.numel() == 0, "it is kept once"
    ours = layer(x)
    assert ours.shape == theirs.shape
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(ours, theirs) < 0.005
    with pytest.raises(AssertionError, match="another number of bands"):
        layer(torch.cat([x, x, x], dim=3))


@needs_bf16
@torch.no_grad()
def test_taps_that_see_padding_alone_take_no_products():
    layer, x = Conv3x3(16, 16).bfloat16(), torch.randn(1, 16, 8, 2).bfloat16()
    layer.pack(2)
    assert count_flops(lambda: layer(x)) == 2 * 6 * 16 * 16 * x[:, 0].numel()


@torch.no_grad()
def test_float32_stays_as_it_is():
    layer, x = Conv3x3(8, 8), torch.randn(1, 8, 4, 2)
    theirs = layer(x)
    layer.pack(2)
    assert torch.equal(layer(x), theirs)


@needs_bf16
def test_a_packed_one_gives_no_gradients():
    layer = Conv3x3(8, 8).bfloat16()
    layer.pack(2)
    with pytest.raises(AssertionError, match="no gradients"):
        layer(torch.randn(1, 8, 4, 2).bfloat16())


@needs_bf16
@torch.no_grad()
def test_a_packed_unet_is_a_plain_one():
    torch.manual_seed(0)
    config = UNetConfig(channels=32, embed_dim=8)
    plain = UNet(config).eval()
    for parameter in plain.parameters():  # else its branches are zero
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    latent, t, cond = torch.randn(1, 8, 16, 16), torch.tensor([500.0]), torch.randn(1, 8)
    theirs = plain(latent, t, cond)
    cast_weights(plain, "bf16")
    packed = copy.deepcopy(plain)
    packed.pack_narrow(16)
    pack_all(packed)
    levels = [*packed.down, packed.middle, *packed.up]
    kept = [
        any(m.weight.numel() for m in level.modules() if isinstance(m, Conv3x3)) for level in levels
    ]
    # 16, 8, 4 and 2 bands; the way up out of the last level ends in a convolution of 4 bands
    assert kept == [True, True, True, False, False, True, True, True, True]
    error = relative_error(packed(latent, t, cond), theirs)
    assert error < 2 * relative_error(plain(latent, t, cond), theirs) < 0.1
