"""A U-Net that keeps the results of its inner levels over several time steps."""

import pytest
import torch
from torch import nn

from soundcrafter.models.unet import ReusingUNet, UNet, UNetConfig


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
