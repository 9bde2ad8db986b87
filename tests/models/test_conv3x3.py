"""Packed 3x3 convolutions make what plain ones do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from soundcrafter.bench.meter import count_flops
from soundcrafter.models.conv3x3 import Conv3x3, _Pairs, frames_seen, over_time
from soundcrafter.models.packed import pack_linears
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.precision import cast_weights, cpu_has_bf16

needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16 instructions here")


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs).square().mean().sqrt() / theirs.std())


@pytest.mark.parametrize("bands", [1, 2, 3])
@torch.no_grad()
def test_a_convolution_over_time_alone_is_the_same(bands):
    torch.manual_seed(0)
    layer, x = Conv3x3(5, 7), torch.randn(2, 5, 4, bands)
    made = F.linear(frames_seen(x), over_time(layer.weight, bands), layer.bias.repeat(bands))
    ours = made.unflatten(2, (bands, -1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, F.conv2d(x, layer.weight, layer.bias, padding=1))


@settings(deadline=None, max_examples=25)
@given(
    frames=st.integers(1, 9), bands=st.integers(1, 5), biased=st.booleans(), ordered=st.booleans()
)
@torch.no_grad()
def test_pairs_of_frames_are_exact(frames: int, bands: int, biased: bool, ordered: bool) -> None:
    """In float32 they differ from the plain way by rounding alone."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, frames, bands), torch.randn(5, 6, 3, 3)
    bias = torch.randn(5) if biased else None
    if ordered:
        x = x.contiguous(memory_format=torch.channels_last)
    ours = _Pairs(weight, bias)(x)
    torch.testing.assert_close(ours, F.conv2d(x, weight, bias, padding=1), rtol=1e-5, atol=1e-5)


@needs_bf16
@pytest.mark.parametrize("frames", [6, 7])
@torch.no_grad()
def test_a_wide_one_is_packed_in_pairs(frames):
    torch.manual_seed(0)
    layer, x = Conv3x3(128, 160).bfloat16(), torch.randn(2, 128, frames, 8).bfloat16()
    theirs = F.conv2d(x.float(), layer.weight.float(), layer.bias.float(), padding=1)
    plain, flops = relative_error(layer(x), theirs), count_flops(lambda: layer(x))
    layer.pack(8)
    assert layer.weight.numel() == 0, "it is kept once"
    assert relative_error(layer(x), theirs) < 4 * plain < 0.01
    assert count_flops(lambda: layer(x)) == flops * 2 / 3 * (frames + frames % 2) / frames


@needs_bf16
@pytest.mark.parametrize(("inputs", "bands"), [(64, 8), (128, 4)])
@torch.no_grad()
def test_what_gains_nothing_stays_as_it_is(inputs, bands):
    layer = Conv3x3(inputs, 128).bfloat16()
    layer.pack(bands)
    assert layer.weight.numel()


@needs_bf16
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("frames", [1, 7])
@torch.no_grad()
def test_a_narrow_map_is_convolved_over_time_alone(frames, bands, order):
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
    with pytest.raises(ValueError, match="gives no gradients; call it within"):
        layer(torch.randn(1, 8, 4, 2).bfloat16())


PAPER = ((1, 1), (2, 2), (2, 2), (2, 2))


@needs_bf16
@pytest.mark.parametrize(
    ("width", "strides", "bands", "packed_levels"),
    [
        (32, PAPER, 16, (3,)),
        (32, PAPER, 9, (3,)),
        (32, ((1, 1), (2, 2), (2, 2), (1, 1)), 8, (2, 3)),
        (128, PAPER, 16, (0, 1, 3)),
    ],
)
@torch.no_grad()
def test_a_packed_unet_is_a_plain_one(width, strides, bands, packed_levels):
    torch.manual_seed(0)
    config = UNetConfig(channels=width, multipliers=(1, 1, 1, 1), embed_dim=8, strides=strides)
    plain = UNet(config).eval()
    for parameter in plain.parameters():  # else its branches are zero
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    latent, t, cond = torch.randn(1, 8, 16, bands), torch.tensor([500.0]), torch.randn(1, 8)
    theirs = plain(latent, t, cond)
    cast_weights(plain, "bf16")
    packed = copy.deepcopy(plain)
    packed.pack_convolutions(bands)
    pack_linears(packed)
    for level in range(4):
        for part in (packed.down[level], packed.up[3 - level]):
            for stage in part.stages:
                assert (stage.res.conv1.weight.numel() == 0) == (level in packed_levels)
                assert (stage.res.conv2.weight.numel() == 0) == (level in packed_levels)
    assert packed.middle[0].res.conv1.weight.numel() == 0
    error = relative_error(packed(latent, t, cond), theirs)
    assert error < 2 * relative_error(plain(latent, t, cond), theirs) < 0.1
    with pytest.raises(ValueError, match=f"got 4 bands; allowed: {bands}"):
        packed(latent[..., :4], t, cond)
