"""What is computed in another way for speed or memory gives what the plain way gives."""

import pytest
import torch
from torch import nn

from soundcrafter.models import attention, layers
from soundcrafter.models.conv1d import Conv1d, ConvTranspose1d
from soundcrafter.models.layers import ResBlock, Upsample
from soundcrafter.models.unet import ReusingUNet, UNet, UNetConfig

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(7, 1, 1), (3, 3, 1), (1, 1, 1)])
def test_a_flat_convolution_is_torchs(kernel, dilation, stride, padding_mode):
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    conv = Conv1d(
        6, 4, kernel, stride, padding=padding, dilation=dilation, padding_mode=padding_mode
    )
    x = torch.randn(2, 6, 20, requires_grad=True)
    expected = nn.Conv1d.forward(conv, x)
    torch.testing.assert_close(conv(x), expected, **CLOSE)
    torch.testing.assert_close(conv(x.mT.contiguous().mT), expected, **CLOSE)
    (grad,) = torch.autograd.grad(conv(x).square().sum(), x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra"),
    [(16, 5, 5, 0), (16, 4, 6, 0), (10, 5, 3, 1), (4, 2, 1, 0), (3, 2, 0, 1), (2, 5, 0, 4)],
)
def test_a_transposed_convolution_by_phases_is_torchs(kernel, stride, padding, extra):
    torch.manual_seed(0)
    conv = ConvTranspose1d(6, 4, kernel, stride, padding=padding, output_padding=extra)
    x = torch.randn(2, 6, 9)
    torch.testing.assert_close(conv(x), nn.ConvTranspose1d.forward(conv, x), **CLOSE)


@pytest.mark.parametrize("stride", [(2, 2), (2, 1), (1, 2), (1, 1)])
def test_upsampling_by_phases_is_the_plain_one(stride):
    torch.manual_seed(0)
    upsample = Upsample(8, stride)
    x = torch.randn(2, 8, 5, 4)
    odd = (5 * stride[0] - stride[0] + 1, 4 * stride[1] - stride[1] + 1)
    plain, plain_odd = upsample(x), upsample(x, odd)
    upsample.fold()
    torch.testing.assert_close(upsample(x), plain, **CLOSE)
    torch.testing.assert_close(upsample(x, odd), plain_odd, **CLOSE)


@pytest.mark.parametrize("out_channels", [4, 8, 16])
@pytest.mark.parametrize("slab", [1, 200, 10**6])
def test_a_block_in_slabs_is_the_plain_one(monkeypatch, out_channels, slab):
    torch.manual_seed(0)
    block = ResBlock(8, out_channels, norm_groups=4, eps=1e-6).eval()
    nn.init.normal_(block.norm1.weight)
    nn.init.normal_(block.norm2.bias)
    x = torch.randn(2, 8, 11, 6) + 3.0
    with torch.no_grad():
        plain = block(x)
        monkeypatch.setattr(layers, "_SLABS_FROM", 1)
        monkeypatch.setattr(layers, "_SLAB", slab)
        torch.testing.assert_close(block(x.clone()), plain, rtol=1e-4, atol=1e-5)


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(channels=8, in_channels=4, embed_dim=8, norm_groups=4, heads=(2, 2, 2, 2))
    unet = UNet(config).eval()
    for parameter in unet.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return unet


@torch.no_grad()
def test_inner_levels_are_computed_at_every_second_time_step_alone(unet):
    latent, cond = torch.randn(2, 4, 16, 8), torch.randn(2, 8)
    times = [torch.full((2,), t) for t in (900, 600, 300)]
    calls = []
    unet.middle[0].register_forward_hook(lambda *_: calls.append(1))
    reusing = ReusingUNet(unet, 2)
    # two calls a time step, as of a sound in two windows
    results = [[reusing(latent, t, cond), reusing(latent + 1, t, cond)] for t in times]
    assert len(calls) == 4  # the first and the third step's
    for step, near in ((0, 1e-6), (2, 1e-6)):
        for call in (0, 1):
            plain = unet(latent + call, times[step], cond)
            torch.testing.assert_close(results[step][call], plain, rtol=0, atol=near)
    between, plain = results[1][1], unet(latent + 1, times[1], cond)
    assert not torch.equal(between, plain)
    assert (between - plain).std() < plain.std()


def test_reuse_below_1_is_refused(unet):
    with pytest.raises(ValueError, match="reuse: got 0"):
        ReusingUNet(unet, 0)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("scores", [7, 40, 150, 10**6])
@torch.no_grad()
def test_attention_in_bf16_in_any_stretches(monkeypatch, scores, batch):
    monkeypatch.setattr(attention, "_SCORES", scores)
    torch.manual_seed(0)
    # as `SelfAttention` has them: heads beside one another
    q, k, v = (torch.randn(batch, 11, 3, 8).transpose(1, 2).bfloat16() for _ in "qkv")
    exact = nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(attention.attend(q, k, v).float(), exact, rtol=0, atol=0.02)
